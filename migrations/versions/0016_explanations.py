"""Add verdicts.explanation

Code of the previous version writes none, and refuses checks that ask for explanations.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("verdicts", sa.Column("explanation", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("verdicts") as batch_op:
        batch_op.drop_column("explanation")
