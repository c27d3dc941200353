"""An archive whose answers are written without a model: scanned, rescanned after a promotion, and scored again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from celery import Celery

from scanfleet.checks.check import load_check
from scanfleet.checks.crop import crop_text
from scanfleet.checks.crop_result import CropResult
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Adapter, Champion, Image, Promotion, Scan, ScorerRow, Verdict
from scanfleet.db.training import champions
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.errors import ImageError
from scanfleet.messages import score_queue
from scanfleet.producer.scans.enqueue import Enqueued
from scanfleet.producer.scans.rescan import enqueue_rescan
from scanfleet.producer.scans.rescan_plan import Plan, Request, plan_rescan
from scanfleet.queue.app import make_app
from tests.helpers.migrated import upgrade
from tests.ledger_machine.ledger import quick, wipe
from tests.rigs.ledger_rig import scorer_spec

QUEUE = score_queue("fake")
ROOT_BATCH = 16  # images
THRESHOLDS = {"review": -1.0, "flag": 1.0}

Margins = Callable[[str], float] | Mapping[str, float]  # of an image, by its uri


def uri(number: int) -> str:
    return f"mem://a/{number:05}"


def numbered(number: int) -> dict[str, Any]:
    return {"n": number}


def decide(margin: float) -> str:
    return "flag" if margin >= THRESHOLDS["flag"] else "clear" if margin < THRESHOLDS["review"] else "review"


@dataclass
class Archive:
    settings: Settings
    engine: sa.Engine
    app: Celery
    check: Any = field(default_factory=lambda: load_check("overlay"))

    def promote(self, name: str, *, gate: dict[str, Any] | None = None) -> int:
        """An adapter of this name becomes the champion. Returns its id."""
        info = AdapterInfo(
            check_name=self.check.name,
            check_hash=self.check.hash,
            base_model="fake",
            base_revision="1",
            uri=f"/none/{name}",
            weights_sha256=name,
            thresholds=THRESHOLDS,
            gate=gate,
            gate_verdict="promote",
        )
        with transaction(self.engine) as connection:
            adapter = register_adapter(connection, info)
            champions.promote(connection, adapter, kind="gate", why="better")
        return adapter

    def scan(
        self, n_images: int, margins: Margins, *, meta: Callable[[int], dict[str, Any]] = numbered, **failing: Any
    ) -> str:
        """Add a scan of N images, answered by the current champion."""
        page = [NewImage(uri=uri(number), etag="1", size=7, meta=meta(number)) for number in range(n_images)]
        with transaction(self.engine) as connection:
            scan, _ = scans.open_scan(
                connection, check=self.check, model="fake", sources=["mem://a"], filters={}, fresh=True
            )
            new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=page, batch_images=ROOT_BATCH)
            connection.execute(sa.update(Scan).where(Scan.id == scan.id).values(n_listed=n_images))
        self.work(margins, **failing)
        return scan.id

    def plan(self, scan_id: str, **request: Any) -> Plan:
        return plan_rescan(self.engine, scan_id, Request(**request))

    def pages(self, scan_id: str, **request: Any) -> Iterator[Enqueued]:
        return enqueue_rescan(self.engine, self.app, self.settings, self.plan(scan_id, **request))

    def rescan(self, scan_id: str, **request: Any) -> str:
        """Enqueue a rescan to its end. Returns its id."""
        return list(self.pages(scan_id, **request))[-1].scan.id

    def scorer(self, check_id: int) -> int:
        """The champion's."""
        with transaction(self.engine) as connection:
            adapter = champions.champion(connection, self.check.name, "fake")
            spec = scorer_spec(
                check_id,
                adapter_id=adapter and adapter.id,
                thresholds=None if adapter is None else THRESHOLDS,
                crop=crop_text(self.check.crop, band={"low": THRESHOLDS["review"], "high": THRESHOLDS["flag"]}),
            )
            return scorer_id(connection, spec)

    def claim(self) -> Claim | None:
        with transaction(self.engine) as connection:
            return batches.claim(connection, model="fake", worker="w", lease_seconds=60)

    def must_claim(self) -> Claim:
        held = self.claim()
        assert held is not None
        return held

    def outcome(self, held: Claim, margins: Margins, *, failing: Sequence[str] = (), **more: Any) -> Outcome:
        fault = ImageError(stage="fetch", reason="gone", detail="no")
        return Outcome(
            scorer_id=self.scorer(held.check_id),
            verdicts=[verdict(image, margins, **more) for image in held.images if image.uri not in failing],
            failures={image.id: fault for image in held.images if image.uri in failing},
        )

    def write(self, held: Claim, margins: Margins, **more: Any) -> None:
        known = self.outcome(held, margins, **more)
        with transaction(self.engine) as connection:
            verdicts.write(connection, held, known)

    def work(self, margins: Margins, **more: Any) -> None:
        """Settle all ready batches, as a worker with the current champion."""
        while held := self.claim():
            self.write(held, margins, **more)

    def images(self, scan_id: str) -> dict[str, Any]:
        """By uri: the image's row and the current verdict."""
        query = (
            sa.select(Image.__table__, Verdict.margin, Verdict.decision, Verdict.label, Verdict.scorer_id)
            .add_columns(Verdict.content_sha256.label("sha256"))
            .outerjoin(Verdict, Verdict.id == Image.verdict_id)
            .where(Image.scan_id == scan_id)
            .order_by(Image.id)
        )
        with reading(self.engine) as connection:
            return {row.uri: row for row in connection.execute(query)}

    def margins(self, scan_id: str) -> dict[str, float | None]:
        return {name: row.margin for name, row in self.images(scan_id).items()}

    def drawn(self, scan_id: str) -> dict[str, str]:
        return {name: row.drawn for name, row in self.images(scan_id).items()}

    def info(self, scan_id: str) -> scans.ScanInfo:
        with reading(self.engine) as connection:
            return scans.get_scan(connection, scan_id)

    def progress(self, scan_id: str) -> scans.Progress:
        with reading(self.engine) as connection:
            return scans.progress(connection, scan_id)


def verdict(
    image: ClaimedImage,
    margins: Margins,
    *,
    reused_from: int | None = None,
    looks: Callable[[str], CropResult | None] = lambda _: None,
) -> NewVerdict:
    margin = margins(image.uri) if callable(margins) else margins[image.uri]
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=f"sha-{image.uri}",
        width=10,
        height=20,
        label="overlay" if margin > 0 else "none",
        decision=decide(margin),
        score=None,
        margin=margin,
        mass=1.0,
        logits=(margin, 0.0, 0.0),
        crop=looks(image.uri),
        reused_from=reused_from,
    )


@contextmanager
def archive(folder: Path, *, batch_images: int = 4, **settings: Any) -> Iterator[Archive]:
    """On a database of its own, brought to the newest schema."""
    loaded = load_settings(data_dir=folder, model="fake", batch_images=batch_images, **settings)
    engine = quick(connect(loaded))
    upgrade(engine)
    with make_app(loaded, (QUEUE,)) as app:
        yield Archive(loaded, engine, app)
    engine.dispose()


def empty(engine: sa.Engine) -> None:
    """Empty the tables for the next test: creating a database takes longer than most tests."""
    wipe(engine)
    with transaction(engine) as connection:
        for table in (Champion, Promotion, ScorerRow, Adapter):
            connection.execute(sa.delete(table))
