"""Add workers.reconciled_at, and indexes of what is open: scans, ready batches, living workers

Workers of the release before reconcile each for itself, which is harmless. With the indexes a round reads the open scans
and living workers, not all that have ended, and of the ready batches those that are due.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

BATCHES = (("ix_batches_unnotified", "id", "IS NULL"), ("ix_batches_notified_at", "notified_at", "IS NOT NULL"))


def upgrade() -> None:
    op.add_column("workers", sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_workers_reconciled_at", "workers", ["reconciled_at"])
    op.create_index("ix_scans_state", "scans", ["state"])
    living = sa.text("stopped_at IS NULL")
    op.create_index("ix_workers_queue", "workers", ["queue"], postgresql_where=living, sqlite_where=living)
    for name, column, condition in BATCHES:
        ready = sa.text(f"state = 'ready' AND notified_at {condition}")
        op.create_index(name, "batches", [column], postgresql_where=ready, sqlite_where=ready)


def downgrade() -> None:
    for name, *_ in BATCHES:
        op.drop_index(name, "batches")
    op.drop_index("ix_workers_queue", "workers")
    op.drop_index("ix_scans_state", "scans")
    op.drop_index("ix_workers_reconciled_at", "workers")
    op.drop_column("workers", "reconciled_at")
