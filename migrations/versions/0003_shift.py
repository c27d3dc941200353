"""shift: how far a scorer's margins lie from those that were stored with its adapter, on the machines that run it

Rules: see 0001. Every column here may be null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("scorers", sa.Column("shift", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("scorers") as batch_op:
        batch_op.drop_column("shift")
