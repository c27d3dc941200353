"""Add labels.attributes

Code of the previous version writes none, and reads labels without them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("labels", sa.Column("attributes", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("labels", "attributes")
