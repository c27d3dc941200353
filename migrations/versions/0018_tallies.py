"""Add batches.tally, scans.sums, and indexes of verdicts for readers

`tally` lets a scan of millions be summed over its batches. Those that are there are tallied here, which reads every image
and verdict once (a minute for 5 million); workers wait meanwhile. Workers of the previous version leave it as it is: where
it does not fit the counts of its batch, the images are counted.

`sums` are those of large scans that are done, which reconciling fills.

Of PostgreSQL alone, whose ledgers are large:

batches(scan_id, id) with the counts: a scan is summed without reading its batches' rows, which hold their stage times. Two
entries for 64 images.
verdicts(scan_id, score, margin) takes the place of (scan_id, decision, id), which nothing reads: the highest scores of a
scan, and those beyond a bound.
verdicts(scorer_id, margin): the answers nearest to a threshold, for `labels suggest`.
verdicts(scorer_id, content_sha256) of what is not clear, a few in a hundred: where two scorers disagree, for the same.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"

LOCKED = "batches, images, verdicts"  # in this order (scanfleet.db.locks); writers wait, readers do not
# Names that an answer counts under, and how often, as `scanfleet.db.tallies.tally.of_answer` has them; NULL: not at all.
NAMES = (
    ("v.decision || ' ' || v.label", "1"),
    ("CASE WHEN v.mass < 0.9 THEN 'low' END", "1"),
    ("CASE WHEN v.unlike >= 0.9 THEN 'far' END", "1"),
    ("CASE WHEN v.unlike IS NOT NULL THEN 'compared' END", "1"),
    ("CASE WHEN v.doubted IS NOT NULL THEN 'doubted' END", "1"),
    ("CASE WHEN v.frames IS NOT NULL THEN 'files' END", "1"),
    ("CASE WHEN {read} < {frames} THEN 'partly' END", "1"),
    ("CASE WHEN {frames} > 0 THEN 'frames' END", "{frames}"),
    ("CASE WHEN {read} > 0 THEN 'read' END", "{read}"),
    ("'problem ' || {problem}", "1"),
)
COUNTS = [
    *("n_images", "n_verdicts", "n_failures", "n_reused", "n_flagged", "n_review"),
    *("state", "lease_token", "scorer_id"),
]
ROWS = "FROM images i JOIN verdicts v ON v.id = i.verdict_id"
TALLY = """
UPDATE batches SET tally = t.tally FROM (
  SELECT batch_id, {collect}(name, n) AS tally FROM (
    SELECT batch_id, scorer_id || ' ' || name AS name, CAST(sum(n) AS bigint) AS n FROM ({named}) named
    WHERE name IS NOT NULL GROUP BY batch_id, scorer_id, name
  ) summed GROUP BY batch_id
) t WHERE t.batch_id = batches.id AND batches.n_verdicts > 0
"""


def upgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        _run(f"LOCK TABLE {LOCKED} IN SHARE ROW EXCLUSIVE MODE")
    kind = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    op.add_column("batches", sa.Column("tally", kind, nullable=True))
    op.add_column("scans", sa.Column("sums", kind, nullable=True))
    due = sa.text("state = 'done' AND sums IS NULL")
    op.create_index("ix_scans_n_listed", "scans", ["n_listed"], postgresql_where=due, sqlite_where=due)
    if on_postgresql:
        _tally_on_postgresql()
        op.create_index("ix_batches_scan_id_id", "batches", ["scan_id", "id"], postgresql_include=COUNTS)
        op.drop_index("ix_verdicts_scan_id_decision_id", "verdicts")
        order = [sa.text("scan_id"), *(sa.text(f"{name} DESC NULLS LAST") for name in ("score", "margin"))]
        op.create_index("ix_verdicts_scan_id_score_margin", "verdicts", order)
        op.create_index("ix_verdicts_scorer_id_margin", "verdicts", ["scorer_id", "margin"])
        unclear = sa.text("decision <> 'clear'")
        op.create_index("ix_verdicts_unclear", "verdicts", ["scorer_id", "content_sha256"], postgresql_where=unclear)
        return
    _tally_on_sqlite()
    op.drop_index("ix_verdicts_scan_id_decision_id", "verdicts")
    op.create_index("ix_verdicts_scan_id", "verdicts", ["scan_id"])


def _tally_on_postgresql() -> None:
    """Read every row once: each becomes several."""
    frames, read = (f"CAST(v.frames ->> '{name}' AS integer)" for name in ("n_frames", "n_scored"))
    values = ", ".join(f"({name}, {n})" for name, n in NAMES)
    values = values.format(frames=frames, read=read, problem="(v.explanation ->> 'problem')")
    named = f"SELECT i.batch_id, v.scorer_id, k.name, k.n {ROWS} CROSS JOIN LATERAL (VALUES {values}) AS k(name, n)"
    _run(TALLY.format(collect="jsonb_object_agg", named=named))


def _tally_on_sqlite() -> None:
    frames, read = (f"json_extract(v.frames, '$.{name}')" for name in ("n_frames", "n_scored"))
    each = (f"SELECT i.batch_id, v.scorer_id, {name} AS name, {n} AS n {ROWS}" for name, n in NAMES)
    named = " UNION ALL ".join(each)
    named = named.format(frames=frames, read=read, problem="json_extract(v.explanation, '$.problem')")
    _run(TALLY.format(collect="json_group_object", named=named))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_batches_scan_id_id", "batches")
        op.drop_index("ix_verdicts_unclear", "verdicts")
        op.drop_index("ix_verdicts_scorer_id_margin", "verdicts")
        op.drop_index("ix_verdicts_scan_id_score_margin", "verdicts")
    else:
        op.drop_index("ix_verdicts_scan_id", "verdicts")
    op.create_index("ix_verdicts_scan_id_decision_id", "verdicts", ["scan_id", "decision", "id"])
    op.drop_index("ix_scans_n_listed", "scans")
    op.drop_column("scans", "sums")
    op.drop_column("batches", "tally")


def _run(*statements: str) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
