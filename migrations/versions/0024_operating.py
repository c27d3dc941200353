"""Add what operating a fleet needs: readiness, load time and drain of workers, limits of scans, bytes of batches

Workers of the release before leave the columns NULL: they are not drained by the ledger, have no load time and no
price. Batches that an older release wrote have no bytes, and count as none in a limit of bytes.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision = "0023"

COLUMNS = (
    ("workers", "model", sa.Text()),
    ("workers", "device_kind", sa.Text()),
    ("workers", "ready_at", sa.DateTime(timezone=True)),
    ("workers", "load_seconds", sa.Float()),
    ("workers", "drain_at", sa.DateTime(timezone=True)),
    ("batches", "n_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite")),
)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    limits = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("scans", sa.Column("limits", limits, nullable=True))


def downgrade() -> None:
    op.drop_column("scans", "limits")
    for table, name, _ in COLUMNS:
        op.drop_column(table, name)
