"""Alembic migrations of the ledger. `scanfleet db upgrade` runs them; scanfleet/store/tables.py is where they lead."""
