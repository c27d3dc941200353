"""A scan whose images lie in a folder, with the answers that a test wants: for tests of the contact sheet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan
from scanfleet.errors import ImageError
from scanfleet.messages import score_queue
from tests.helpers.migrated import upgrade
from tests.helpers.odd_files import encoded
from tests.rigs.ledger_rig import scorer_spec

CALIBRATED = {"a": 1.0, "b": 0.0}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """An image and its answer. decision None: it failed. data None: a small picture of its own is made."""

    name: str
    decision: str | None = "flag"
    label: str = "overlay"
    score: float | None = 0.9
    margin: float = 1.5
    meta: dict[str, Any] | None = None
    data: bytes | None = None


def plant(data_dir: Path, folder: Path, images: Sequence[Planted], check: Check | None = None) -> str:
    """Write the files and a finished scan over them into the ledger of `data_dir`. Returns the scan's id."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = connect(load_settings(data_dir=data_dir))
    upgrade(engine)
    planted = {str(folder / each.name): each for each in images}
    contents = {uri: _write(Path(uri), each, number) for number, (uri, each) in enumerate(planted.items())}
    listed = [NewImage(uri=uri, root=str(folder), meta=each.meta) for uri, each in planted.items()]
    with transaction(engine) as connection:
        check = check or load_check("overlay")
        scan, _ = scans.open_scan(connection, check=check, model="fake", sources=[str(folder)], filters={})
        new_images.add_images(
            connection, scan_id=scan.id, queue=score_queue("fake"), images=listed, batch_images=len(listed)
        )
        connection.execute(sa.update(Scan).values(n_listed=len(listed)))
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=600)
        assert held is not None
        scorer = scorer_id(connection, scorer_spec(held.check_id, calibrator=CALIBRATED))
        answered = [image for image in held.images if planted[image.uri].decision is not None]
        failed = [image for image in held.images if planted[image.uri].decision is None]
        outcome = Outcome(
            scorer_id=scorer,
            verdicts=[_verdict(image, planted[image.uri], contents[image.uri]) for image in answered],
            failures={image.id: ImageError(stage="decode", reason="truncated", detail="so") for image in failed},
        )
        verdicts.write(connection, held, outcome)
    engine.dispose()
    return scan.id


def _write(path: Path, planted: Planted, number: int) -> str:
    """Write the file and return the SHA-256 of its bytes."""
    colour = (number % 256, number // 256 % 256, 90)
    data = encoded(Image.new("RGB", (24, 16), colour), "PNG") if planted.data is None else planted.data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _verdict(image: ClaimedImage, planted: Planted, sha256: str) -> NewVerdict:
    assert planted.decision is not None
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=sha256,
        width=24,
        height=16,
        label=planted.label,
        decision=planted.decision,
        score=planted.score,
        margin=planted.margin,
        mass=1.0,
        logits=(1.0, 0.0, 0.0),
    )
