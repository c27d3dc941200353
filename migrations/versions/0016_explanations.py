"""Add verdicts.explanation

Code of the previous version writes none, and refuses checks that ask for explanations.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    kind = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    op.add_column("verdicts", sa.Column("explanation", kind, nullable=True))


def downgrade() -> None:
    op.drop_column("verdicts", "explanation")
