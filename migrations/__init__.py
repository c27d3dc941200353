"""Alembic migrations of the ledger. `scanfleet db upgrade` runs them; scanfleet/db/tables.py is where they lead."""
