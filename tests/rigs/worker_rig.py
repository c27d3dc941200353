"""A worker's pipeline on an embedded ledger and a store in memory, without a broker, for unit tests."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import Progress
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from scanfleet.messages import score_queue
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.memory import MemoryStore
from scanfleet.storage.open import OpenStores
from scanfleet.worker.batch.pipeline import Pipeline
from scanfleet.worker.processes.components import Scoring, running
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.scoring.model import FakeModel, Model
from tests.helpers.migrated import upgraded

QUEUE = score_queue("fake")


def png(seed: int, *, width: int = 40, height: int = 30) -> bytes:
    """A small picture, another one for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def plain(width: int, height: int) -> bytes:
    """A picture of one colour: many pixels in few bytes."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", (width, height), (200, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Outage:
    """While `on`, statements that contain `marker` fail as if the database were down. n: the number of failures."""

    marker: str = ""
    on: bool = True
    times: int = 1_000_000
    n: int = 0

    def __call__(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self.on and self.marker in statement and self.n < self.times:
            self.n += 1
            raise sa.exc.OperationalError(statement, {}, Exception("server closed the connection"))


def add_scan(
    engine: sa.Engine,
    images: list[NewImage],
    *,
    batch_images: int = 8,
    check: Check | None = None,
    model: str = "fake",
    pass_id: str | None = None,
) -> str:
    """A listed scan over these images; returns its id."""
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection,
            check=check or load_check("overlay"),
            model=model,
            sources=["mem://a"],
            filters={},
            fresh=True,
            pass_id=pass_id,
        )
        queue = score_queue(model)
        new_images.add_images(connection, scan_id=scan.id, queue=queue, images=images, batch_images=batch_images)
        connection.execute(sa.update(Scan).where(Scan.id == scan.id).values(n_listed=len(images)))
    return scan.id


@dataclass
class Rig:
    settings: Settings
    engine: sa.Engine
    store: MemoryStore
    scoring: Scoring
    stop: Stop

    @property
    def pipeline(self) -> Pipeline:
        return self.scoring.pipeline

    def put(self, contents: Mapping[str, bytes]) -> list[NewImage]:
        """Store objects and return them as a listing would."""
        self.store.objects.update(contents)
        listed = {info.uri: info for info in self.store.list("mem://")}
        return [NewImage(uri=uri, etag=listed[uri].etag, size=listed[uri].size) for uri in contents]

    def scan(self, contents: Mapping[str, bytes], **how: Any) -> str:
        return add_scan(self.engine, self.put(contents), **how)

    def scan_listed(self, images: list[NewImage], **how: Any) -> str:
        return add_scan(self.engine, images, **how)

    def cut_database(self, outage: Outage) -> Outage:
        sa.event.listen(self.engine, "before_cursor_execute", outage)
        return outage

    def drain(self) -> None:
        """Score until no batch can be claimed, or the worker pauses."""
        before = -1
        while self.pipeline.n_taken != before and not self.pipeline.seconds_paused:
            before = self.pipeline.n_taken
            self.pipeline.run(None)

    def forget_backoff(self) -> None:
        """End every pause, that of this worker too, and reset the source errors."""
        self.pipeline._breaker.reset()
        with transaction(self.engine) as connection:
            connection.execute(sa.update(Batch).values(not_before=None))
            connection.execute(sa.update(Scan).values(not_before=None, trouble=0))

    def progress(self, scan_id: str) -> Progress:
        with reading(self.engine) as connection:
            return scans.progress(connection, scan_id)

    def rows(self, table: type, *where: sa.ColumnElement[bool]) -> list[sa.Row[Any]]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(table.__table__).where(*where).order_by(sa.text("1"))))  # type: ignore[attr-defined]

    def states(self) -> dict[str, str]:
        """Image state by uri."""
        return {row.uri: row.state for row in self.rows(Image)}

    def margins(self, scan_id: str) -> dict[str, float]:
        """Margin by uri."""
        uris = {row.id: row.uri for row in self.rows(Image, Image.scan_id == scan_id)}
        return {uris[row.image_id]: row.margin for row in self.rows(Verdict, Verdict.scan_id == scan_id)}

    def failures(self) -> dict[str, tuple[str, str]]:
        """(stage, reason) by uri."""
        uris = {row.id: row.uri for row in self.rows(Image)}
        return {uris[row.image_id]: (row.stage, row.reason) for row in self.rows(Failure)}


@contextmanager
def rig(
    folder: Path,
    *,
    model: Model | None = None,
    store: ObjectStore | None = None,
    drain_seconds: float = 15.0,
    real_stores: bool = False,
    **settings: Any,
) -> Iterator[Rig]:
    """A pipeline that runs; `store` stands before the memory store where a test injects a fault.

    `real_stores`: folders and buckets instead.
    """
    loaded = upgraded(load_settings(data_dir=folder, model="fake", **settings))
    memory = MemoryStore()
    stop = Stop(drain_seconds=drain_seconds)
    with (
        ledger(loaded) as engine,
        running(
            loaded,
            engine=engine,
            model=model or FakeModel(),
            stop=stop,
            stores=OpenStores(loaded) if real_stores else lambda uri, root: store or memory,
        ) as scoring,
    ):
        yield Rig(settings=loaded, engine=engine, store=memory, scoring=scoring, stop=stop)
