"""Add api_tokens, web_sessions, access_audit, batches.urgent and scans.kind

Workers of the release before claim urgent batches like any other, in their turn.
"""

import sqlalchemy as sa
from alembic import op

from scanfleet.db.base import BigId, Json, UtcDateTime

revision = "0020"
down_revision = "0019"
URGENT = sa.text("urgent IS NOT NULL AND state = 'ready'")


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", BigId, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_api_tokens_name")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_tokens_digest")),
    )
    op.create_table(
        "web_sessions",
        sa.Column("id", BigId, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("token_id", BigId, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_web_sessions")),
        sa.UniqueConstraint("digest", name=op.f("uq_web_sessions_digest")),
        sa.ForeignKeyConstraint(["token_id"], ["api_tokens.id"], name=op.f("fk_web_sessions_token_id")),
    )
    op.create_index("ix_web_sessions_token_id", "web_sessions", ["token_id"])
    op.create_index("ix_web_sessions_expires_at", "web_sessions", ["expires_at"])
    op.create_table(
        "access_audit",
        sa.Column("id", BigId, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("token_id", BigId),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", Json),
        sa.Column("address", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_audit")),
    )
    op.create_index("ix_access_audit_at", "access_audit", ["at"])
    op.add_column("scans", sa.Column("kind", sa.Text()))
    op.add_column("batches", sa.Column("urgent", sa.Boolean()))
    op.create_index("ix_batches_urgent", "batches", ["id"], postgresql_where=URGENT, sqlite_where=URGENT)


def downgrade() -> None:
    op.drop_index("ix_batches_urgent", "batches")
    op.drop_column("batches", "urgent")
    op.drop_column("scans", "kind")
    for table in ("access_audit", "web_sessions", "api_tokens"):
        op.drop_table(table)
