"""Rename rung_at to notified_at

Expand: the release before writes and reads `rung_at`, this one `notified_at`. In a fleet of both a batch is at most
notified once more than it need be, which is harmless. The next release drops `rung_at`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = ("batches", "trainings")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True))
        # Only ready rows are ever notified again: the rest of a large table is not touched.
        op.execute(f"UPDATE {table} SET notified_at = rung_at WHERE state = 'ready' AND rung_at IS NOT NULL")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"UPDATE {table} SET rung_at = notified_at WHERE state = 'ready'")
        op.drop_column(table, "notified_at")  # in place: SQLite cannot copy a table that others reference
