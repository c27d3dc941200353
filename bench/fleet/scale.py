"""Idle workers, and many at once: what each asks of the database, and whether 32 score 32 times as much as one.

The scorer sleeps for a fixed time an image, so that 32 worker processes are busy while two cores suffice for the rest:
fetching, decoding, the ledger, both servers. A fleet's control plane is then what could hold them back.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from PIL import Image

from bench.fleet.crowd import Statements, crowd
from bench.fleet.meter import cpu_used
from bench.report import Report
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, CheckRow, Scan

N_IDLE, N_SCANS = 4, 10_000
SETTLE_SECONDS = 15.0  # after a change, until timers have taken note
IDLE_SECONDS = 60.0
N_WORKERS = 32
SECONDS_PER_IMAGE = 0.5  # of the scorer
BATCH_IMAGES = 4  # so short that a worker ends about 30 in SCORING_SECONDS
WARM_BATCHES = 3  # of each worker, until its decoders have started
SCORING_SECONDS = 60.0
N_IMAGES = 20_000  # enough for the start of 32 workers and for both measurements
SIDE = 112  # pixels: TOKENS visual tokens
TOKENS = 16
BUSY = {
    "SCANFLEET_FAKE_SECONDS": str(SECONDS_PER_IMAGE),
    "SCANFLEET_TOKEN_BUDGET": str(TOKENS),  # one image a forward
    "SCANFLEET_FETCH_THREADS": "1",  # and one decoder process
    "SCANFLEET_BATCHES_IN_FLIGHT": "2",
    # Of what waits longer than renotify_seconds, every batch is notified again, which one slow worker would pay for.
    "SCANFLEET_MAX_OUTSTANDING_NOTIFICATIONS": "200",
}


def run() -> Report:
    with TemporaryDirectory() as folder:
        quiet, paused = _idle(Path(folder))
        rates, used, connections = _busy(Path(folder))
    efficiency = rates[N_WORKERS] / (N_WORKERS * rates[1])
    figures = {
        "efficiency_32": efficiency,
        "idle_statements_per_s": quiet.n / N_IDLE / IDLE_SECONDS,
        "idle_beside_paused_per_s": paused.n / N_IDLE / IDLE_SECONDS,
        "idle_database_ms_per_s": quiet.milliseconds / N_IDLE / IDLE_SECONDS,
        "images_per_s": {str(n): rate for n, rate in rates.items()},
        "busy_cores_32": sum(used.values()) / SCORING_SECONDS,
        "connections_per_worker": connections,
    }
    return Report(
        name="scale",
        figures=figures,
        notes=(
            f"{N_IDLE} idle worker processes, {N_SCANS} ended scans; every statement counts, BEGIN and COMMIT, too",
            "idle_beside_paused_per_s: the same while one scan is paused, so that somebody reconciles",
            f"busy: worker processes whose scorer sleeps {SECONDS_PER_IMAGE} s an image; {os.cpu_count()} cores",
        ),
    )


def _idle(folder: Path) -> tuple[Statements, Statements]:
    """Return what idle workers send when nothing is open, and while a scan is paused."""
    draw(folder / "paused", 16)
    with crowd({}) as here:
        scan_id = here.enqueue(folder / "paused")
        with transaction(here.engine) as connection:
            scans.pause(connection, scan_id)
            fill(connection)
        here.start(N_IDLE)
        time.sleep(SETTLE_SECONDS)
        paused = here.statements_of(IDLE_SECONDS)
        with transaction(here.engine) as connection:
            scans.cancel(connection, scan_id)
        time.sleep(SETTLE_SECONDS)
        quiet = here.statements_of(IDLE_SECONDS)
    for name, found in (("paused", paused), ("idle", quiet)):
        for text, n in found.calls.items():
            print(f"{name}: {n:5} x {' '.join(text.split())[:150]}", file=sys.stderr)
    return quiet, paused


def fill(connection: sa.Connection) -> None:
    """Add ended scans of one batch each."""
    at = now(connection)
    check = connection.execute(sa.select(CheckRow.id).limit(1)).scalar_one()
    same = {"check_id": check, "model": "fake", "queue": "score.fake", "sources": ["/none"], "filters": {}}
    ended = {"state": "done", "n_listed": 64, "created_at": at, "finished_at": at}
    names = [f"old{number:05}" for number in range(N_SCANS)]
    connection.execute(sa.insert(Scan), [{"id": name, "identity": name} | same | ended for name in names])
    batch = {"queue": "score.fake", "n_images": 64, "n_verdicts": 64, "state": "done", "finished_at": at}
    connection.execute(sa.insert(Batch), [{"scan_id": name} | batch for name in names])


def _busy(folder: Path) -> tuple[dict[int, float], dict[str, float], int]:
    """Return images/s by number of workers, processor seconds of all processes with 32, and the most connections."""
    rates = {}
    draw(folder / "busy", N_IMAGES)
    with crowd(BUSY) as here:
        here.enqueue(folder / "busy", batch_images=BATCH_IMAGES)
        for n in (1, N_WORKERS):
            here.start(n - here.n_ready())
            here.until(partial(_are_warm, here.engine, n))
            with reading(here.engine) as connection:
                begun = now(connection)
            with cpu_used(here.pids) as used:
                connections = here.most_connections(SCORING_SECONDS)
            with reading(here.engine) as connection:
                rates[n] = rate(connection, begun)
            print(
                f"{n} workers: {rates[n]:.2f} images/s; {_words(used, rates[n] * SCORING_SECONDS)}",
                file=sys.stderr,
                flush=True,
            )
        with reading(here.engine) as connection:
            if not connection.execute(sa.select(Batch.id).where(Batch.state == "ready").limit(1)).first():
                raise AssertionError("the workers ran out of work: draw more images")
    return rates, used, connections


def _words(used: dict[str, float], n_images: float) -> str:
    """Return processor milliseconds an image, by kind of process; children are the decoders of workers."""
    kinds: dict[str, float] = {}
    for name, seconds in used.items():
        kind = name.partition("-")[0] + (" children" if name.endswith(" children") else "")
        kinds[kind] = kinds.get(kind, 0.0) + 1000 * seconds / n_images
    return ", ".join(f"{kind} {milliseconds:.1f} ms an image" for kind, milliseconds in kinds.items())


def _are_warm(engine: sa.Engine, n: int) -> bool:
    """Return whether n workers have written enough batches."""
    warm = sa.select(Batch.worker).where(Batch.worker.is_not(None)).group_by(Batch.worker)
    with reading(engine) as connection:
        return len(connection.execute(warm.having(sa.func.count() >= WARM_BATCHES)).all()) >= n


def rate(connection: sa.Connection, begun: datetime) -> float:
    """Return the images/s of all workers from then on until now, by the batches that ended meanwhile."""
    until = now(connection)
    ended = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_images), 0))
    ended = ended.where(Batch.finished_at > begun, Batch.finished_at <= until)
    return float(connection.execute(ended).scalar_one()) / (until - begun).total_seconds()


def draw(folder: Path, n: int) -> None:
    """Write n pictures of one colour each: no two have the same bytes, so that no answer is reused."""
    folder.mkdir()
    for number in range(n):
        colour = (number % 256, number // 256 % 256, number // 65536)
        Image.new("RGB", (SIDE, SIDE), colour).save(folder / f"{number:06}.png")
