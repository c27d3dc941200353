"""Let answers be written without an index of images: heap-only tuples, no foreign keys of verdicts, fewer indexes

Measured for each image that is settled on PostgreSQL 15: 2,140 bytes of write-ahead log before, 1,140 after.

- images keeps half of each page free, so that the row with the answer lies beside the one before it, and none of its
  indexes has a column that an answer changes: (scan_id, id) instead of (scan_id, state, id), and the hash of the bytes
  is in the verdict alone, whose index now begins with it.
- `changed_at` of a first answer is `verdicts.created_at`: the trigger leaves out `pending` to `verdict`.
- PostgreSQL drops the foreign keys of verdicts, each of which locked a row for every answer, and wrote that down.
- Verdicts lie in the order of `created_at`: an index of their ranges (BRIN) takes the place of one of each.

Workers of the previous version go on: what they write is as before, but for `changed_at`. Commands of the previous
version miss the hash of the bytes of answers that are written after this. Tables are not written anew: pages that are
full give no space to the answers of their images.
"""

import sqlalchemy as sa
from alembic import op

from scanfleet.migrations.views import views_0014, views_0017

revision = "0017"
down_revision = "0016"

# The order in which transactions take them (scanfleet.db.locks); else an upgrade beside workers might deadlock.
LOCKED = "batches, images, verdicts, scans"
KEYS = {"image_id": "images", "scan_id": "scans", "scorer_id": "scorers"}
TRIGGERS = {
    "postgresql": "CREATE TRIGGER images_changed BEFORE UPDATE OF state, verdict_id ON images FOR EACH ROW {when}"
    " EXECUTE FUNCTION scanfleet_image_changed()",
    "sqlite": "CREATE TRIGGER images_changed AFTER UPDATE OF state, verdict_id ON images {when}"
    " BEGIN UPDATE images SET changed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id; END",
}
NO_FIRST_ANSWER = "WHEN (NOT (OLD.state = 'pending' AND NEW.state = 'verdict'))"


def upgrade() -> None:
    on_postgresql = _begin()
    _change_trigger(NO_FIRST_ANSWER)
    op.create_index("ix_images_scan_id_id", "images", ["scan_id", "id"])
    op.drop_index("ix_images_scan_id_state_id", "images")
    op.create_index("ix_verdicts_content_sha256_scorer_id", "verdicts", ["content_sha256", "scorer_id"])
    op.drop_index("ix_verdicts_scorer_id_content_sha256", "verdicts")
    if on_postgresql:
        op.drop_index("ix_verdicts_created_at", "verdicts")
        ranges = {"autosummarize": True, "pages_per_range": 32}
        op.create_index(
            "ix_verdicts_created_at", "verdicts", ["created_at"], postgresql_using="brin", postgresql_with=ranges
        )
        op.drop_index("ix_images_content_sha256", "images")
        for column in KEYS:
            op.drop_constraint(f"fk_verdicts_{column}", "verdicts", type_="foreignkey")
        _run("ALTER TABLE images SET (fillfactor = 50)")
        _run(views_0017.v_results("postgresql").replace("CREATE", "CREATE OR REPLACE", 1))
    else:
        _run("DROP VIEW v_results", views_0017.v_results("sqlite"))


def downgrade() -> None:
    on_postgresql = _begin()
    _run(
        "UPDATE images SET content_sha256 = v.content_sha256, changed_at = coalesce(images.changed_at, v.created_at)"
        " FROM verdicts v WHERE v.id = images.verdict_id"
    )
    if on_postgresql:
        _run(_v_results("postgresql").replace("CREATE", "CREATE OR REPLACE", 1))
        _run("ALTER TABLE images RESET (fillfactor)")
        for column, table in KEYS.items():
            op.create_foreign_key(f"fk_verdicts_{column}", "verdicts", table, [column], ["id"])
        op.drop_index("ix_verdicts_created_at", "verdicts")
        op.create_index("ix_verdicts_created_at", "verdicts", ["created_at"])
        where = sa.text("content_sha256 IS NOT NULL")
        op.create_index("ix_images_content_sha256", "images", ["content_sha256"], postgresql_where=where)
    else:
        _run("DROP VIEW v_results", _v_results("sqlite"))
    op.create_index("ix_verdicts_scorer_id_content_sha256", "verdicts", ["scorer_id", "content_sha256"])
    op.drop_index("ix_verdicts_content_sha256_scorer_id", "verdicts")
    op.create_index("ix_images_scan_id_state_id", "images", ["scan_id", "state", "id"])
    op.drop_index("ix_images_scan_id_id", "images")
    _change_trigger("")


def _begin() -> bool:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        _run(f"LOCK TABLE {LOCKED} IN ACCESS EXCLUSIVE MODE")
    return on_postgresql


def _change_trigger(when: str) -> None:
    dialect = op.get_bind().dialect.name
    _run(f"DROP TRIGGER images_changed{' ON images' if dialect == 'postgresql' else ''}")
    _run(TRIGGERS[dialect].format(when=when))


def _v_results(dialect: str) -> str:
    return next(each for each in views_0014.statements(dialect) if each.startswith("CREATE VIEW v_results"))


def _run(*statements: str) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)  # as it is: text() would read :S as a parameter
