"""Add workers.reconciled_at, and indexes of what is open: scans by state, workers that live

Workers of the release before reconcile each for itself, which is harmless. With the indexes a round reads the open scans
and living workers, not all that have ended.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("workers", sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_workers_reconciled_at", "workers", ["reconciled_at"])
    op.create_index("ix_scans_state", "scans", ["state"])
    living = sa.text("stopped_at IS NULL")
    op.create_index("ix_workers_queue", "workers", ["queue"], postgresql_where=living, sqlite_where=living)


def downgrade() -> None:
    op.drop_index("ix_workers_queue", "workers")
    op.drop_index("ix_scans_state", "scans")
    op.drop_index("ix_workers_reconciled_at", "workers")
    op.drop_column("workers", "reconciled_at")
