"""Add the views, images.changed_at, verdicts.computed_at, batches.worker, indexes for readers; jsonb on PostgreSQL

Workers of the previous version go on: they read and write jsonb as they did json, a trigger sets `changed_at` for
them, and the views do without what they leave empty. They wait while this runs, since PostgreSQL writes tables with
JSON anew; backups of them aside it takes the disk space of those tables once more.
"""

import sqlalchemy as sa
from alembic import op

from scanfleet.migrations.views import views_0014

revision = "0014"
down_revision = "0013"

JSON = {
    "adapters": ("recipe", "metrics", "calibrator", "thresholds", "canary", "gate"),
    "calibrations": ("calibrator", "thresholds", "first_thresholds", "metrics"),
    "checks": ("body",),
    "labels": ("boxes", "shown", "attributes"),
    "workers": ("seconds",),
    "scans": ("sources", "filters", "cursor", "roots"),
    "scorers": ("calibrator", "thresholds", "shift"),
    "trainings": ("overrides", "progress", "report"),
    "batches": ("seconds",),
    "images": ("meta",),
    "verdicts": ("logits", "boxes", "box_problems", "crop", "frames", "notes"),
}
# The order in which transactions take them (scanfleet.db.locks); else an upgrade beside workers might deadlock.
LOCKED = "batches, images, verdicts, failures, scans"
# Zero characters, which jsonb refuses: \u0000 behind an even number of backslashes.
AS_JSONB = r"""regexp_replace({0}::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1', 'g')::jsonb"""

ANSWERED = "UPDATE images SET changed_at = v.created_at FROM verdicts v WHERE v.id = images.verdict_id"
FAILED = (
    "UPDATE images SET changed_at = f.at FROM failures f WHERE f.image_id = images.id AND images.changed_at IS NULL"
)

POSTGRESQL_TRIGGER = (
    """CREATE FUNCTION scanfleet_image_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      NEW.changed_at := clock_timestamp();
      RETURN NEW;
    END $$""",
    """CREATE TRIGGER images_changed BEFORE UPDATE OF state, verdict_id ON images
    FOR EACH ROW EXECUTE FUNCTION scanfleet_image_changed()""",
)
SQLITE_TRIGGER = (
    """CREATE TRIGGER images_changed AFTER UPDATE OF state, verdict_id ON images
    BEGIN UPDATE images SET changed_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id; END""",
)


def upgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        _run(f"LOCK TABLE {LOCKED} IN ACCESS EXCLUSIVE MODE")
    op.add_column("images", sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verdicts", sa.Column("computed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("batches", sa.Column("worker", sa.Text(), nullable=True))
    _run(ANSWERED, FAILED)
    if on_postgresql:
        _change_json("jsonb", AS_JSONB)  # after the updates: it leaves the old rows behind
    op.create_index("ix_images_uri", "images", ["uri"], postgresql_ops={"uri": "text_pattern_ops"})
    _partial_index("ix_images_changed_at_id", ["changed_at", "id"])
    if on_postgresql:
        _partial_index("ix_images_content_sha256", ["content_sha256"])
    op.create_index("ix_verdicts_created_at", "verdicts", ["created_at"])
    _run(*(POSTGRESQL_TRIGGER if on_postgresql else SQLITE_TRIGGER))
    _run(*views_0014.statements("postgresql" if on_postgresql else "sqlite"))


def downgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    _run(*(f"DROP VIEW {name}" for name in reversed(views_0014.VIEWS)))
    _run("DROP TRIGGER images_changed ON images" if on_postgresql else "DROP TRIGGER images_changed")
    op.drop_index("ix_verdicts_created_at", "verdicts")
    for name in ("ix_images_changed_at_id", "ix_images_uri"):
        op.drop_index(name, "images")
    if on_postgresql:
        op.drop_index("ix_images_content_sha256", "images")
        _run("DROP FUNCTION scanfleet_image_changed()")
        _change_json("json", "{0}::json")
    op.drop_column("batches", "worker")
    op.drop_column("verdicts", "computed_at")
    op.drop_column("images", "changed_at")


def _partial_index(name: str, columns: list[str]) -> None:
    """Leave out images that have no value yet: enqueueing does not write the index."""
    where = sa.text(f"{columns[0]} IS NOT NULL")
    op.create_index(name, "images", columns, postgresql_where=where, sqlite_where=where)


def _change_json(kind: str, using: str) -> None:
    """Change the type of all JSON columns, each table in one go."""
    for table, columns in JSON.items():
        changes = (f"ALTER COLUMN {name} TYPE {kind} USING {using.format(name)}" for name in columns)
        _run(f"ALTER TABLE {table} {', '.join(changes)}")


def _run(*statements: str) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)  # as it is: text() would read :S as a parameter
