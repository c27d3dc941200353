"""A scan is settled as a worker does it: claim, one look-up by version and one by bytes, one write for each batch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
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
from scanfleet.db.scans.scans import ScanInfo

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
    model, scorer = enqueued(engine, check, n_images), scorer_of(engine, check)
    statements, clock = Statements(engine), Clock(server=server)
    before = _wal_position(engine)
    with statements.counted():
        while settle_next(engine, model, scorer, clock):
            pass
    return Settled(
        client_us=clock.client / n_images * 1e6,
        server_us=clock.on_server / n_images * 1e6,
        wal_bytes=(_wal_position(engine) - before) / n_images,
        statements_per_batch=statements.n / (n_images / BATCH_IMAGES),
        images_per_s=n_images / clock.wall,
    )


class Clock:
    """Sums the seconds of claims and writes: of this process's processor, of the server's, and by the clock."""

    def __init__(self, *, server: int | None = None) -> None:
        self.client = self.on_server = self.wall = 0.0
        self._server = server

    @contextmanager
    def running(self) -> Iterator[None]:
        of_server, start, cpu = _cpu_seconds(self._server), time.perf_counter(), time.process_time()
        yield
        self.client += time.process_time() - cpu
        self.wall += time.perf_counter() - start
        self.on_server += _cpu_seconds(self._server) - of_server


def settle_next(engine: sa.Engine, model: str, scorer: ScorerRef, clock: Clock | None = None) -> bool:
    """Claim a batch, look its answers up and write new ones. False: there is none."""
    clock = clock or Clock()
    with clock.running(), transaction(engine) as connection:
        held = batches.claim(connection, model=model, worker="bench", lease_seconds=60)
    if held is None:
        return False
    outcome = outcome_of(held, scorer)
    look_up(engine, outcome.scorer_id, outcome.verdicts)
    with clock.running(), transaction(engine) as connection:
        verdicts.write(connection, held, outcome)
    return True


def enqueued(engine: sa.Engine, check: Check, n_images: int) -> str:
    """Add a scan of a model of its own, so that a claim finds nothing else. Returns the model."""
    model = f"fake{secrets.token_hex(4)}"
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=check, model=model, sources=[model], filters={})
    add(engine, scan, range(n_images))
    return model


def add(engine: sa.Engine, scan: ScanInfo, numbers: range) -> None:
    """Add images to a scan, page by page."""
    for start in range(numbers.start, numbers.stop, PAGE_IMAGES):
        page = [
            NewImage(uri=f"s3://{scan.model}/images/{number:08}.jpg", etag=secrets.token_hex(16))
            for number in range(start, min(start + PAGE_IMAGES, numbers.stop))
        ]
        with transaction(engine) as connection:
            new_images.add_images(connection, scan_id=scan.id, queue=scan.queue, images=page, batch_images=BATCH_IMAGES)


def scorer_of(engine: sa.Engine, check: Check) -> ScorerRef:
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


def outcome_of(held: Claim, scorer: ScorerRef) -> verdicts.Outcome:
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


def look_up(engine: sa.Engine, scorer: int, given: Sequence[answers.NewVerdict]) -> None:
    """Ask for earlier answers of these versions and bytes, as a worker does before and after it fetches."""
    with reading(engine) as connection:
        answers.answers_by_identity(connection, scorer, [each.identity for each in given])
    with reading(engine) as connection:
        answers.answers_by_content(connection, scorer, [each.content_sha256 for each in given])


class Statements:
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
