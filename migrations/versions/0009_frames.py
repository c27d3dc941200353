"""Add verdicts.frames, verdicts.notes and scorers.decoding

Workers of the previous version write none of them: NULL stands for a file of one picture, no notes, and the decoding
of that version.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

VERDICTS = ("frames", "notes")


def upgrade() -> None:
    for column in VERDICTS:
        op.add_column("verdicts", sa.Column(column, sa.JSON(none_as_null=True), nullable=True))
    op.add_column("scorers", sa.Column("decoding", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))


def downgrade() -> None:
    for column in VERDICTS:
        op.drop_column("verdicts", column)  # in place: SQLite cannot copy a table that others reference
    op.drop_column("scorers", "decoding")
