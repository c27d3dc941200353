"""Add review_leases: which image is before which person"""

import sqlalchemy as sa
from alembic import op

from scanfleet.db.base import UtcDateTime

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_table(
        "review_leases",
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("skipped", sa.Boolean(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("check_name", "content_sha256", name=op.f("pk_review_leases")),
    )
    op.create_index("ix_review_leases_expires_at", "review_leases", ["expires_at"])


def downgrade() -> None:
    op.drop_table("review_leases")
