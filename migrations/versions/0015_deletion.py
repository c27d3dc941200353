"""Add forgotten, webhooks, and indexes of the pointers to verdicts and images

Code of the previous version lists forgotten images again, and sends no webhook. Without the indexes, each deleted row
would have its table read for rows that point to it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
POINTERS = (("images", "rescan_of"), ("images", "replaced"), ("verdicts", "reused_from"))


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("uri_sha256", sa.Text(), nullable=False),
        sa.Column("scan_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uri_sha256", "scan_id", name="pk_forgotten"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("scan_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("shown", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", NUMBER, nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name="ck_webhooks_state"),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_webhooks_scan_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.UniqueConstraint("scan_id", "url", name="uq_webhooks_scan_id_url"),
    )
    op.create_index("ix_webhooks_state_id", "webhooks", ["state", "id"])
    for table, column in POINTERS:
        filled = sa.text(f"{column} IS NOT NULL")
        op.create_index(f"ix_{table}_{column}", table, [column], postgresql_where=filled, sqlite_where=filled)


def downgrade() -> None:
    for table, column in POINTERS:
        op.drop_index(f"ix_{table}_{column}", table)
    op.drop_table("webhooks")
    op.drop_table("forgotten")
