"""A scan is settled as a worker does it: claim, one look-up by version and one by bytes, one write for each batch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import sqlalchemy as sa

from scanfleet.checks.check import Check, load_check
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import answers, verdicts
from scanfleet.db.results.scorers import ScorerRef, ScorerSpec, scorer_id
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.new_images import NewImage

PAGE_IMAGES = 1_024
BATCH_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Cost an image of claim and write; the look-ups count as statements, not as time."""

    client_us: float
    server_us: float
    wal_bytes: float
    statements_per_batch: float
    images_per_s: float


def measure(engine: sa.Engine, n_images: int, *, server: int | None = None) -> Settled:
    """Settle a new scan. server: the process of PostgreSQL, which ends with its children's times."""
    check = load_check("overlay")
    model = _enqueue(engine, check, n_images)
    scorer = _scorer(engine, check)
    statements = _Statements(engine)
    client = wall = 0.0
    looked_up = 0.0
    before, wal = _cpu_seconds(server), _wal_position(engine)
    with statements.counted():
        while True:
            start, cpu = time.perf_counter(), time.process_time()
            with transaction(engine) as connection:
                held = batches.claim(connection, model=model, worker="bench", lease_seconds=60)
            client, wall = client + time.process_time() - cpu, wall + time.perf_counter() - start
            if held is None:
                break
            of_server = _cpu_seconds(server)
            outcome = _outcome(held, scorer)
            _look_up(engine, outcome)
            looked_up += _cpu_seconds(server) - of_server
            start, cpu = time.perf_counter(), time.process_time()
            with transaction(engine) as connection:
                verdicts.write(connection, held, outcome)
            client, wall = client + time.process_time() - cpu, wall + time.perf_counter() - start
    on_server = _cpu_seconds(server) - before - looked_up
    return Settled(
        client_us=client / n_images * 1e6,
        server_us=on_server / n_images * 1e6,
        wal_bytes=(_wal_position(engine) - wal) / n_images,
        statements_per_batch=statements.n / (n_images / BATCH_IMAGES),
        images_per_s=n_images / wall,
    )


def _enqueue(engine: sa.Engine, check: Check, n_images: int) -> str:
    """Add a scan of a model of its own, so that a claim finds nothing else. Returns the model."""
    model = f"fake:{secrets.token_hex(4)}"
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=check, model=model, sources=[model], filters={})
    for start in range(0, n_images, PAGE_IMAGES):
        numbers = range(start, min(start + PAGE_IMAGES, n_images))
        page = [NewImage(uri=f"s3://{model}/images/{number:08}.jpg", etag=secrets.token_hex(16)) for number in numbers]
        with transaction(engine) as connection:
            new_images.add_images(connection, scan_id=scan.id, queue=scan.queue, images=page, batch_images=BATCH_IMAGES)
    return model


def _scorer(engine: sa.Engine, check: Check) -> ScorerRef:
    with transaction(engine) as connection:
        info, _ = scans.open_scan(connection, check=check, model="fake", sources=["scorer"], filters={})
        spec = ScorerSpec(
            check_id=info.check_id,
            base_model="fake",
            base_revision="1",
            precision="fp32",
            adapter_id=None,
            max_pixels=1,
            crop="never",
            calibrator=None,
            thresholds=None,
        )
        return ScorerRef(id=scorer_id(connection, spec), key=spec.key, check=check, adapter_sha256=None)


def _outcome(held: Claim, scorer: ScorerRef) -> verdicts.Outcome:
    """Return fresh answers, of which three in a hundred are flags."""
    found = [
        answers.NewVerdict(
            image_id=image.id,
            identity=image.identity,
            content_sha256=secrets.token_hex(32),
            width=640,
            height=480,
            label="none",
            decision="flag" if image.id % 33 == 0 else "clear",
            score=0.0123456,
            margin=-4.3853121,
            mass=0.99123456,
            logits=(12.1234567, 7.7381446, 3.1234567),
        )
        for image in held.images
    ]
    return verdicts.Outcome(
        scorer_id=scorer.id, scorer=scorer, verdicts=found, failures={}, n_fetched=len(found), seconds={"fetch": 1.5}
    )


def _look_up(engine: sa.Engine, outcome: verdicts.Outcome) -> None:
    with reading(engine) as connection:
        identities = [verdict.identity for verdict in outcome.verdicts]
        answers.answers_by_identity(connection, outcome.scorer_id, identities)
    with reading(engine) as connection:
        answers.answers_by_content(connection, outcome.scorer_id, [each.content_sha256 for each in outcome.verdicts])


class _Statements:
    """Counts what is sent to the server; a statement that is sent once for each row counts for each."""

    def __init__(self, engine: sa.Engine) -> None:
        self.n = 0
        self._engine = engine

    @contextmanager
    def counted(self) -> Iterator[None]:
        sa.event.listen(self._engine, "before_cursor_execute", self._count)
        try:
            yield
        finally:
            sa.event.remove(self._engine, "before_cursor_execute", self._count)

    def _count(self, _: Any, __: Any, statement: str, parameters: Any, ___: Any, executemany: bool) -> None:
        if not statement.startswith("BEGIN"):
            self.n += len(parameters) if executemany else 1


def _cpu_seconds(server: int | None) -> float:
    """Return the processor time of PostgreSQL, of processes that have ended, too."""
    if server is None:
        return 0.0
    total = 0.0
    for process in (postmaster := psutil.Process(server), *postmaster.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _wal_position(engine: sa.Engine) -> int:
    if engine.dialect.name != "postgresql":
        return 0
    with reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one())
