"""Rows a second that `results export` writes of a ledger on PostgreSQL, and how its memory grows with their number.

Each format is written by a process of its own, to a file, of a ledger that is filled set-wise: one scan of BENCH_ROWS
images with verdicts, of which one in ten is flagged and has boxes, with a manifest of five columns.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.report import Report, seconds
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.scans import scans
from scanfleet.db.schema import upgrade
from tests.services.postgres import PostgresServer

ROWS = int(os.environ.get("BENCH_ROWS", "200000"))
FORMS = ("csv", "parquet", "jsonl")
REPEATS = 3
SMALL = 10  # a part of the rows, for the growth of memory

IMAGES = """
insert into images (scan_id, batch_id, uri, etag, size, identity, meta, state, content_sha256, width, height, crashes)
select :scan, :batch, 's3://ads/2026/campaign/' || n || '/banner.jpg', md5(n::text), 20000 + n % 5000, md5('i' || n),
  json_build_object('id', n, 'campaign', 'spring ' || n % 40, 'price', round((n % 977)::numeric / 7, 2),
    'paid', n % 2 = 0, 'country', (array['de', 'fr', 'it'])[1 + n % 3]),
  'verdict', md5('c' || n) || md5('d' || n), 1024, 768, 0
from generate_series(1, :rows) n
"""
VERDICTS = """
insert into verdicts (image_id, scan_id, scorer_id, identity, content_sha256, label, decision, score, margin, mass,
  logits, boxes, created_at)
select id, scan_id, :scorer, identity, content_sha256, (array['none', 'natural', 'overlay'])[1 + id % 3],
  case when id % 10 = 0 then 'flag' when id % 10 = 1 then 'review' else 'clear' end,
  (id % 10007)::float8 / 10007, (id % 10007)::float8 / 701 - 7, 0.98, '[0.1, 0.2, 0.3]',
  case when id % 10 = 0 then json_build_array(json_build_object('x0', 10.5, 'y0', 20, 'x1', 210.25, 'y1', 80,
    'label', 'overlay', 'score', 0.9)) end,
  timestamptz '2026-11-30' + id * interval '1.5 seconds'
from images where scan_id = :scan
"""
SETTLED = (
    "update images set verdict_id = verdicts.id from verdicts where verdicts.image_id = images.id",
    "update scans set n_listed = :rows where id = :scan",
    "vacuum analyze",
)


def run() -> Report:
    figures: dict[str, Any] = {}
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        url, few = server.fresh_database(), server.fresh_database()
        fill(url, ROWS)
        fill(few, ROWS // SMALL)
        grown = []
        for form in FORMS:
            taken = [_measured(form, url, folder) for _ in range(REPEATS)]
            for clock in ("seconds", "cpu_seconds"):
                name = clock.replace("seconds", "s")
                figures[f"{form}_rows_per_{name}"] = ROWS / statistics.median(each[clock] for each in taken)
            grown.append(taken[-1]["peak_mb"] / _measured(form, few, folder)["peak_mb"])
        figures["rss_growth"] = max(grown)
    return Report(
        name="export",
        figures=figures,
        notes=(
            f"{ROWS} rows to a file, modules loaded on the way; medians of {REPEATS}",
            "cpu_s: seconds of the processor for the exporting process alone, whatever else the machine does",
            f"rss_growth: peak memory, over that of {ROWS // SMALL} rows, the worst of the formats",
        ),
    )


def fill(url: str, rows: int) -> None:
    """Make a ledger with one scan of answered images."""
    engine = connect(load_settings(database_url=url, model="fake"))
    upgrade(engine)
    with transaction(engine, long=True) as connection:
        check = load_check("overlay")
        scan, _ = scans.open_scan(connection, check=check, model="fake", sources=["s3://ads"], filters={})
        scorer = scorer_id(connection, _spec(scan.check_id))
        batch = connection.execute(
            sa.text(
                "insert into batches (scan_id, queue, state, n_images, lease_token, attempts, n_verdicts, n_failures,"
                " n_reused, n_flagged, n_review)"
                " values (:scan, :queue, 'done', :rows, 0, 1, :rows, 0, 0, 0, 0) returning id"
            ),
            {"scan": scan.id, "queue": scan.queue, "rows": rows},
        ).scalar_one()
        given = {"scan": scan.id, "batch": batch, "rows": rows, "scorer": scorer}
        for statement in (IMAGES, VERDICTS, *SETTLED[:2]):
            connection.execute(sa.text(statement), given)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        raw: Any = connection.connection.dbapi_connection
        raw.execute("commit")
        raw.execute(SETTLED[2])
    engine.dispose()


def _spec(check_id: int) -> ScorerSpec:
    return ScorerSpec(
        check_id=check_id,
        base_model="fake",
        base_revision="1",
        precision="fp32",
        adapter_id=None,
        max_pixels=1,
        crop="never",
        calibrator={"a": 1.0},
        thresholds=None,
    )


def _measured(form: str, url: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.export", form, folder]
    environment = os.environ | {"SCANFLEET_DATABASE_URL": url, "SCANFLEET_DATA_DIR": folder}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(form: str, folder: str) -> None:
    """Export everything to a file as the command line does, and print seconds and peak megabytes."""
    from scanfleet.producer.cli.main import main

    arguments = ["results", "export", "--format", form, "-o", str(Path(folder) / f"out.{form}")]
    codes: list[int] = []
    begin = time.process_time()
    taken = seconds(lambda: codes.append(main(arguments)))
    busy = time.process_time() - begin
    assert codes == [0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"seconds": taken, "cpu_seconds": busy, "peak_mb": peak}))


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2])
