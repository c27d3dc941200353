"""A ledger with one result of every kind, for tests of what exports make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.engine import transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Scan, Verdict
from scanfleet.errors import ImageError
from tests.rigs.ledger_rig import QUEUE, flagged, scorer_spec

FIRST = datetime(2026, 11, 29, 23, 59, 59, 500_000, tzinfo=UTC)  # of the first verdict; each next one is a day later
BOX = {"x0": 1.0, "y0": 2.5, "x1": 9.25, "y1": 18.0, "label": "overlay", "score": 0.875}
CROP = CropResult(
    why="uncertain",
    first=0.25,
    second=1.5,
    box=(1, 2, 9, 18),
    sharpness=0.5,
    tokens=64,
    look="crop",
    method="attention",
)
FRAMES = FrameResult(n_frames=9, n_scored=8, frame=3, seconds=0.5, reason="frames")


def answers(image: batches.ClaimedImage) -> tuple[NewVerdict, ...]:
    plain = flagged(image)
    full = replace(plain, decision="review", score=0.1 + 0.2, boxes=[BOX, BOX | {"label": "añ 'x'"}], crop=CROP)
    return (
        plain,
        replace(full, box_problems=("no four numbers",), notes=("on black",), unlike=0.5, doubted="flag"),
        replace(plain, label="none", decision="clear", score=1.0, margin=-20.0, frames=FRAMES, boxes=[]),
    )


def fill(
    engine: sa.Engine,
    metas: Sequence[dict[str, Any] | None] = (None,) * 6,
    *,
    check: str = "overlay",
    uri: str = "s3://B/{:03}.jpg",
    n_pending: int = 1,
) -> str:
    """One image for each of `metas`: verdicts of three kinds in turn, then a failure, then `n_pending` without either.

    Returns the scan's id.
    """
    images = [NewImage(uri=uri.format(number), etag="1", size=10, meta=meta) for number, meta in enumerate(metas)]
    n_done = len(images) - n_pending
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=load_check(check), model="fake", sources=["s3://B"], filters={}, fresh=True
        )
        for portion in (images[:n_done], images[n_done:]):
            if portion:
                new_images.add_images(
                    connection, scan_id=scan.id, queue=QUEUE, images=portion, batch_images=len(portion)
                )
        connection.execute(sa.update(Scan).values(n_listed=len(images)))
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=600)
        assert held is not None
        *scored, failed = held.images
        outcome = Outcome(
            scorer_id=scorer_id(connection, scorer_spec(held.check_id, calibrator={"a": 1.0}, mode="lora")),
            verdicts=[answers(image)[number % 3] for number, image in enumerate(scored)],
            failures={failed.id: ImageError(stage="decode", reason="truncated", detail='he said "no"\n')},
        )
        verdicts.write(connection, held, outcome)
        of_scan = sa.select(Verdict.id).where(Verdict.scan_id == scan.id).order_by(Verdict.id)
        for number, verdict in enumerate(connection.execute(of_scan).scalars().all()):
            at = FIRST + timedelta(days=number)
            connection.execute(sa.update(Verdict).where(Verdict.id == verdict).values(created_at=at))
    return scan.id
