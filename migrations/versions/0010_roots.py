"""Add scans.roots and images.seen_etag

Code of the previous version writes neither: workers then go by whether a folder is empty, and pin no version.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("images", sa.Column("seen_etag", sa.Text(), nullable=True))
    op.add_column("scans", sa.Column("roots", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("scans", "roots")  # in place: SQLite cannot copy a table that others reference
    op.drop_column("images", "seen_etag")
