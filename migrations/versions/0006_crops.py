"""crops: calibrators for scorers with a second look

Rules: a migration runs on SQLite and PostgreSQL; workers of the previous version go on while it runs, so add columns
as nullable and drop them one release later; a column with a default is filled in the same migration.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", _number(), nullable=False),
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("check_hash", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("base_revision", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.Text(), nullable=True),
        sa.Column("calibrator", _json(), nullable=True),
        sa.Column("thresholds", _json(), nullable=True),
        sa.Column("first_thresholds", _json(), nullable=True),
        sa.Column("metrics", _json(), nullable=False),
        sa.Column("who", sa.Text(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrations")),
    )
    op.create_index(op.f("ix_calibrations_check_hash_base_model"), "calibrations", ["check_hash", "base_model"])


def downgrade() -> None:
    op.drop_index(op.f("ix_calibrations_check_hash_base_model"), "calibrations")
    op.drop_table("calibrations")
