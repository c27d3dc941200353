"""An archive of any size in a ledger on PostgreSQL, written set-wise: what questions cost on it is what is measured.

Of n images 60 % lie in one scan (`big`), 18 % are names of the same bytes that a newer scorer answered (`mid`), 8 %
are of a scan that is a third done (`run`), and the rest in scans of 64 images, a few of them cancelled. 1 in 160 has
failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.scans import scans
from scanfleet.db.schema import upgrade
from scanfleet.db.tallies import scan_sums

BATCH = 64  # images
BIG, MID, RUN = 0.60, 0.18, 0.08  # of all images
SMALL_SHARE = 500  # images for each small scan


@dataclass(frozen=True, kw_only=True)
class Archive:
    """n images in three large scans and n_small of 64. uri, content: of one image of `big`."""

    n: int
    n_small: int
    big: str = "bigscans"
    mid: str = "midscans"
    run: str = "runscans"
    small: str = "s0000002"
    uri: str = "s3://ads/2026/big/0000/1000.jpg"
    prefix: str = "s3://ads/2026/big/0003/"
    labelled: int = 2000


_SCAN = """
insert into scans (id, identity, check_id, model, queue, sources, filters, state, n_listed, created_at, finished_at,
  trouble)
select {id}, {id}, :check, 'fake', 'score.fake', '["s3://ads"]', '{{}}', {state}, {listed},
  timestamptz '2026-10-01' + {at} * interval '1 minute', timestamptz '2026-11-01' + {at} * interval '1 minute', 0
from generate_series({first}, {last}) s
"""
# Images of a scan are a run of ids from `base` on; those of small scans are one run, 64 each.
_BATCHES = """
insert into batches (id, scan_id, queue, state, n_images, lease_token, attempts, n_verdicts, n_failures, n_reused,
  n_flagged, n_review, scorer_id, finished_at, seconds, worker, suspect, crashes)
select b, {scan}, 'score.fake', {state}, least(64, {last} - (b - {first}) * 64), 1, 1, 0, 0, 0, 0, 0,
  case when {state} = 'done' then {scorer} end, timestamptz '2026-11-01' + b * interval '1 second',
  case when {state} = 'done' then jsonb_build_object('fetch', .11 * (b % 97), 'decode', .2, 'prepare', .3,
    'threads', 1.2, 'wait', 2.1, 'device', .5 + .01 * (b % 31), 'under_way', .75, 'idle', .05, 'forwards', 4,
    'scored', 64, 'tokens', 16384, 'padding', 300, 'first_tokens', 16384) end, 'host-1-abcdef', false, 0
from generate_series({first}, {first} + ({last} + 63) / 64 - 1) b
"""
_IMAGES = """
insert into images (id, scan_id, batch_id, uri, etag, size, identity, meta, state, verdict_id, width, height, crashes)
select {base} + n, {scan}, {first} + n / 64, {uri}, md5(n::text), 20000 + n % 5000,
  md5({salt} || n) || md5('x' || {salt} || n),
  jsonb_build_object('id', n, 'campaign', 'c' || n % 4000, 'truth', (array['none', 'overlay'])[1 + (n % 31 = 0)::int]),
  {state}, case when {state} = 'verdict' then {base} + n end, 1024, 768, 0
from generate_series(0, {last} - 1) n
"""
_VERDICTS = """
insert into verdicts (id, image_id, scan_id, scorer_id, identity, content_sha256, label, decision, score, margin, mass,
  logits, unlike, created_at)
select id, id, scan_id, :scorer, identity, content, case when score > .96 then 'overlay' else
  (array['none', 'none', 'none', 'natural'])[1 + id % 4] end,
  case when score > .97 then 'flag' when score > .955 then 'review' else 'clear' end,
  score, ln(score / (1 - score)) * 2, .85 + .15 * sqrt(score), '[0.1, 0.2, 0.3]', score,
  timestamptz '2026-11-01' + id * interval '0.5 seconds'
from (
  select id, scan_id, identity, md5({content} || (id - {base})) || md5('y' || {content} || (id - {base})) as content,
    .0005 + .999 * random() as score
  from images where id between {base} and {base} + {last} - 1 and state = 'verdict'
) given
"""
_FAILURES = """
insert into failures (image_id, scan_id, stage, reason, detail, at)
select id, scan_id, 'decode', (array['broken', 'too_large', 'unknown_format'])[1 + id % 3], 'in words', now()
from images where state = 'failed'
"""
_COUNTS = """
update batches set n_verdicts = c.verdicts, n_failures = c.failures, n_flagged = c.flagged, n_review = c.review
from (
  select i.batch_id, count(v.id) as verdicts, count(*) filter (where i.state = 'failed') as failures,
    count(*) filter (where v.decision = 'flag') as flagged, count(*) filter (where v.decision = 'review') as review
  from images i left join verdicts v on v.id = i.verdict_id group by i.batch_id
) c where c.batch_id = batches.id
"""
# As `scanfleet.db.tallies.tally` names them; no file here has several pictures or lacks an explanation.
_TALLIES = """
update batches set tally = t.tally from (
  select batch_id, jsonb_object_agg(scorer_id || ' ' || name, n) as tally from (
    select i.batch_id, v.scorer_id, k.name, count(*) as n from images i join verdicts v on v.id = i.verdict_id
    cross join lateral (values (v.decision || ' ' || v.label), (case when v.mass < .9 then 'low' end),
      (case when v.unlike >= .9 then 'far' end), ('compared')) as k(name)
    where k.name is not null group by i.batch_id, v.scorer_id, k.name
  ) named group by batch_id
) t where t.batch_id = batches.id
"""
_LABELS = (
    """
insert into labels (check_name, content_sha256, uri, label, who, origin, at, settles, drawn, shown)
select 'overlay', content_sha256, 's3://ads/' || id, (array['none', 'overlay'])[1 + (id % 9 = 0)::int], 'ann', 'person',
  timestamptz '2026-11-20' + id * interval '1 second', false, case when id % 2 = 0 then 'random' end,
  jsonb_build_object('label', label, 'decision', decision)
from verdicts where scan_id = :big order by id limit :labelled
""",
    """
insert into labelled_images (content_sha256, uri, width, height, look, cluster, split, added_at)
select content_sha256, uri, 1024, 768, md5(content_sha256), content_sha256, 'train', at from labels
""",
)


def fill(url: str, n: int) -> Archive:
    """Make a ledger with about n images, with the statistics that autovacuum would have gathered."""
    archive = Archive(n=n, n_small=max(n // SMALL_SHARE, 8))
    engine = connect(load_settings(database_url=url, model="fake"))
    upgrade(engine)
    try:
        with transaction(engine, long=True) as connection, _indexed_later(connection):
            _write(connection, archive)
        with transaction(engine, long=True) as connection:
            while scan_sums.keep_next(connection):
                pass
    finally:
        engine.dispose()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as plain:  # it may take minutes
        plain.execute("vacuum analyze")
    return archive


@contextmanager
def _indexed_later(connection: sa.Connection) -> Iterator[None]:
    """Take away what slows rows down one by one, and make it again: indexes, and checks of foreign keys."""
    found = connection.execute(
        sa.text(
            "select indexname, indexdef from pg_indexes where tablename in ('images', 'verdicts') and schemaname ="
            " current_schema() and indexname not in (select conname from pg_constraint)"
        )
    ).all()
    connection.execute(
        sa.text("set local session_replication_role = replica; set local maintenance_work_mem = '512MB'")
    )
    for row in found:
        connection.execute(sa.text(f"drop index {row.indexname}"))
    yield
    for row in found:
        connection.exec_driver_sql(row.indexdef.replace("%", "%%"))


def _write(connection: sa.Connection, archive: Archive) -> None:
    check = load_check("overlay")
    probe, _ = scans.open_scan(connection, check=check, model="fake", sources=["s3://ads"], filters={}, fresh=True)
    connection.execute(sa.text("delete from scans where id = :id"), {"id": probe.id})
    given = {"check": probe.check_id, "big": archive.big, "labelled": archive.labelled}
    old, new = (scorer_id(connection, _spec(probe.check_id, budget=budget)) for budget in (1, 2))

    def run(statement: str, **more: object) -> None:
        connection.execute(sa.text(statement), given | more)

    run("select setseed(.5)")
    rest = archive.n_small * BATCH
    done, base, batch = "(b - {first}) * 3 < (({last} + 63) / 64)", 1, 1
    sizes = ((archive.big, BIG, old, "big"), (archive.mid, MID, new, "big"), (archive.run, RUN, new, "run"))
    for place, (scan, share, scorer, names) in enumerate(sizes):
        size, running = int(archive.n * share), scan == archive.run
        listed = {"id": f"'{scan}'", "first": 1, "last": 1, "at": 20000 + place, "listed": size}
        run(_SCAN.format(**listed, state="'running'" if running else "'done'"))
        spread = {"first": batch, "last": size, "scan": f"'{scan}'", "base": base}
        ready = f"case when {done.format(**spread)} then 'done' else 'ready' end" if running else "'done'"
        run(_BATCHES.format(**spread, state=ready, scorer=scorer))
        state = "case when n % 160 = 7 then 'failed' else 'verdict' end"
        if running:
            state = f"case when n / 64 * 3 >= ({size} + 63) / 64 then 'pending' else {state} end"
        uri = f"'s3://ads/2026/{names}/' || lpad((n / 1000)::text, 4, '0') || '/' || n || '.jpg'"
        run(_IMAGES.format(**spread, state=state, uri=uri, salt=f"'{scan}'"))
        run(_VERDICTS.format(**spread, content=f"'{names}'"), scorer=scorer)
        base, batch = base + size, batch + (size + 63) // 64
    _write_small(run, archive, base, batch, scorer=old, rest=rest)
    for statement in (_FAILURES, _COUNTS, _TALLIES, *_LABELS):
        run(statement)
    for table in ("images", "batches", "verdicts"):
        run(f"select setval(pg_get_serial_sequence('{table}', 'id'), (select max(id) from {table}))")


def _write_small(run: object, archive: Archive, base: int, batch: int, *, scorer: int, rest: int) -> None:
    assert callable(run)
    cancelled = "s % 50 = 3"
    name = "'s' || lpad(s::text, 7, '0')"
    state = f"case when {cancelled} then 'cancelled' else 'done' end"
    run(_SCAN.format(id=name, state=state, listed=BATCH, first=0, last=archive.n_small - 1, at="s"))

    def of(number: str, text: str) -> str:
        return text.replace("s::text", f"({number})::text").replace("s % 50", f"({number}) % 50")

    spread = {"first": batch, "last": rest, "base": base}
    run(_BATCHES.format(**spread, scan=of(f"b - {batch}", name), state=of(f"b - {batch}", state), scorer=scorer))
    of_image = f"case when {of('n / 64', cancelled)} then 'cancelled' when n % 160 = 7 then 'failed' else 'verdict' end"
    uri = "'s3://ads/small/' || n / 64 || '/' || n || '.jpg'"
    run(_IMAGES.format(**spread, scan=of("n / 64", name), state=of_image, uri=uri, salt="'small'"))
    run(_VERDICTS.format(**spread, content="'small'"), scorer=scorer)


def _spec(check_id: int, *, budget: int) -> ScorerSpec:
    return ScorerSpec(
        check_id=check_id,
        base_model="fake",
        base_revision="1",
        precision="fp32",
        adapter_id=None,
        max_pixels=budget,
        crop="never",
        calibrator={"a": 0.5, "b": -1.4, "n": 400, "prevalence": 0.5, "method": "platt"},
        thresholds={"review": 6.1, "flag": 6.95},
    )
