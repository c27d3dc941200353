"""Say in the comment of v_labels.origin that labels may be synthetic

The column takes any word, so that workers of the release before read such labels; they do not limit their share.
"""

from alembic import op

revision = "0022"
down_revision = "0021"

BEFORE = "person, import, review or golden"


def upgrade() -> None:
    _comment("person, import, review, golden or synthetic")


def downgrade() -> None:
    _comment(BEFORE)


def _comment(words: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"COMMENT ON COLUMN v_labels.origin IS '{words}'")
