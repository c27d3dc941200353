"""A small ledger with a scan in it, for tests of commands that report about one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import ScorerSpec, scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.workers import start_worker
from scanfleet.db.tables import Scan
from scanfleet.errors import ImageError
from scanfleet.messages import score_queue
from tests.helpers.migrated import upgrade

QUEUE = score_queue("fake")


def scorer_spec(check_id: int, **more: Any) -> ScorerSpec:
    given: dict[str, Any] = {
        "check_id": check_id,
        "base_model": "fake",
        "base_revision": "1",
        "precision": "fp32",
        "adapter_id": None,
        "max_pixels": 100,
        "crop": "never",
        "calibrator": None,
        "thresholds": None,
    }
    return ScorerSpec(**(given | more))


def flagged(image: batches.ClaimedImage) -> NewVerdict:
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=f"sha-{image.uri}",
        width=10,
        height=20,
        label="overlay",
        decision="flag",
        score=None,
        margin=1.5,
        mass=1.0,
        logits=(1.0, 0.0, 0.0),
    )


def ledger_with_scan(
    data_dir: Path,
    *,
    failures: tuple[tuple[str, str], ...] = (),
    n_verdicts: int = 2,
    n_held: int = 0,
    n_ready: int = 0,
    worker_queue: str | None = None,
    **scorer: Any,
) -> str:
    """One settled batch with `n_verdicts` flags and a failure for each (stage, reason); then, of one image each,
    `n_held` batches under way and `n_ready` ready ones. worker_queue: of a live worker. Returns the scan's id."""
    engine = connect(load_settings(data_dir=data_dir))
    upgrade(engine)
    n_first = n_verdicts + len(failures)
    images = [
        NewImage(uri=f"/none/{number:03}.jpg", root="/none", etag="1") for number in range(n_first + n_held + n_ready)
    ]
    with transaction(engine) as connection:
        check = load_check("overlay")
        scan, _ = scans.open_scan(connection, check=check, model="fake", sources=["/none"], filters={})
        for portion, size in ((images[:n_first], n_first), (images[n_first:], 1)):
            if portion:
                new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=portion, batch_images=size)
        connection.execute(sa.update(Scan).values(n_listed=len(images)))
        if n_first:
            held = batches.claim(connection, model="fake", worker="w", lease_seconds=600)
            assert held is not None
            faults = zip(held.images[n_verdicts:], failures, strict=True)
            outcome = Outcome(
                scorer_id=scorer_id(connection, scorer_spec(held.check_id, **scorer)),
                verdicts=[flagged(image) for image in held.images[:n_verdicts]],
                failures={image.id: ImageError(stage=at, reason=why, detail="so") for image, (at, why) in faults},
            )
            verdicts.write(connection, held, outcome)
        for _ in range(n_held):
            assert batches.claim(connection, model="fake", worker="w", lease_seconds=600) is not None
        if worker_queue is not None:
            start_worker(connection, worker="w", host="h", pid=1, queue=worker_queue, device="cpu")
    engine.dispose()
    return scan.id
