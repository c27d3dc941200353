"""modes: how a scorer answers, and what was wrong with an answer that was to hold boxes

Rules: a migration runs on SQLite and PostgreSQL; workers of the previous version go on while it runs, so add columns
as nullable and drop them one release later; a column with a default is filled in the same migration.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("scorers", sa.Column("mode", sa.Text(), nullable=True))
    op.execute("UPDATE scorers SET mode = CASE WHEN adapter_id IS NULL THEN 'zero-shot' ELSE 'lora' END")
    op.add_column("verdicts", sa.Column("box_problems", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("verdicts") as batch_op:
        batch_op.drop_column("box_problems")
    with op.batch_alter_table("scorers") as batch_op:
        batch_op.drop_column("mode")
