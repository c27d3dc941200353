"""Add verdicts.unlike, verdicts.doubted, scorers.likeness, batches.n_unlike and batches.n_compared

Workers of the previous version write none of them: NULL stands for an image that was compared with none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

COUNTS = ("n_unlike", "n_compared")


def upgrade() -> None:
    op.add_column("verdicts", sa.Column("unlike", sa.Float(), nullable=True))
    op.add_column("verdicts", sa.Column("doubted", sa.Text(), nullable=True))
    op.add_column("scorers", sa.Column("likeness", sa.Text(), nullable=True))
    for column in COUNTS:
        op.add_column("batches", sa.Column(column, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))


def downgrade() -> None:
    for column in COUNTS:
        op.drop_column("batches", column)  # in place: SQLite cannot copy a table that others reference
    op.drop_column("scorers", "likeness")
    for column in ("unlike", "doubted"):
        op.drop_column("verdicts", column)
