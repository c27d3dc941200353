"""suspects: batches whose worker died, the image in hand, scans whose store is away, why a worker ended

Rules: see 0001. Every column here has a default or may be null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ZERO = sa.text("0")


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("batches", sa.Column("suspect", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("batches", sa.Column("crashes", _number(), server_default=ZERO, nullable=False))
    op.add_column("batches", sa.Column("in_hand", _number(), nullable=True))
    op.add_column("images", sa.Column("crashes", _number(), server_default=ZERO, nullable=False))
    op.add_column("scans", sa.Column("trouble", _number(), server_default=ZERO, nullable=False))
    op.add_column("scans", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.add_column("scans", sa.Column("waiting_for", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("ended_because", sa.Text(), nullable=True))


def downgrade() -> None:
    columns = {
        "workers": ("ended_because", "progress_at"),
        "scans": ("waiting_for", "not_before", "trouble"),
        "images": ("crashes",),
        "batches": ("in_hand", "crashes", "suspect"),
    }
    for table, names in columns.items():
        with op.batch_alter_table(table) as batch_op:
            for name in names:
                batch_op.drop_column(name)
