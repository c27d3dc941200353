"""What the control plane costs: enqueue, claim and settle on PostgreSQL, as processor time, statements and WAL.

Times are of the processor, so that other work on the machine counts little. The server is a real one with durable
commits; its time is that of all its processes. BEGIN and COMMIT are no statements here.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.control.enqueueing import enqueue_apart
from bench.control.settling import Settled, measure
from bench.report import REPEATS, Report
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.schema import ledger, upgrade
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

N_SETTLED = 6_400
SMALL, LARGE = 100_000, 1_000_000  # images of the manifests whose memory is compared


def run() -> Report:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        postgres, redis = stack.enter_context(PostgresServer(durable=True)), stack.enter_context(RedisServer())
        engine = connect(load_settings(data_dir=folder, model="fake", database_url=postgres.fresh_database()))
        stack.callback(engine.dispose)
        upgrade(engine)
        settled = [measure(engine, N_SETTLED, server=postgres.pid) for _ in range(REPEATS)]
        embedded = stack.enter_context(ledger(load_settings(data_dir=folder / "embedded", model="fake")))
        on_sqlite = [measure(embedded, N_SETTLED) for _ in range(REPEATS)]
        small, large = (
            enqueue_apart(folder, n, database_url=postgres.fresh_database(), broker_url=redis.url)
            for n in (SMALL, LARGE)
        )
    return Report(
        name="control",
        figures={
            "enqueue_us": large.us_per_image,
            "enqueue_small_us": small.us_per_image,
            "settle_client_us": _median(settled, "client_us"),
            "settle_server_us": _median(settled, "server_us"),
            "wal_bytes": _median(settled, "wal_bytes"),
            "statements_per_batch": _median(settled, "statements_per_batch"),
            "producer_rss_growth": large.peak_bytes / small.peak_bytes,
            "sqlite_settle_us": _median(on_sqlite, "client_us"),
            "sqlite_settled_per_s": _median(on_sqlite, "images_per_s"),
        },
        notes=(
            f"settled: {N_SETTLED} images a round in batches of 64, one process, medians of {REPEATS}",
            f"enqueued: manifests of {SMALL:,} and {LARGE:,} lines, each by a producer process of its own",
        ),
    )


def _median(rounds: list[Settled], name: str) -> float:
    return statistics.median(getattr(each, name) for each in rounds)
