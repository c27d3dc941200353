"""Add scans.pass_id

Code of the previous version writes none, and scores the scans of a pass one by one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("scans", sa.Column("pass_id", sa.Text(), nullable=True))
    op.create_index("ix_scans_pass_id", "scans", ["pass_id"])


def downgrade() -> None:
    op.drop_index("ix_scans_pass_id", "scans")
    op.drop_column("scans", "pass_id")
