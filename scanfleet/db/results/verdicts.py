"""Verdicts and failures: written in one transaction with the batch, read by page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.checks.crop_result import CropResult
from scanfleet.db.engine import now
from scanfleet.db.results.rescan_writes import renew
from scanfleet.db.scans import batches, failures
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.scans import finish_if_complete
from scanfleet.db.scans.source_breaker import count_source_error, release_scan
from scanfleet.db.tables import Batch, Image, Verdict
from scanfleet.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class NewVerdict:
    """The answer for one image, ready to be written."""

    image_id: int
    identity: str
    content_sha256: str
    width: int | None  # pixels, upright; None when the bytes were never fetched
    height: int | None
    label: str
    decision: str
    score: float | None
    margin: float
    mass: float
    logits: tuple[float, ...]
    boxes: tuple[dict[str, Any], ...] | None = None  # None: not asked for
    box_problems: tuple[str, ...] = ()  # what of the answer could not be trusted, or why nobody was asked
    crop: CropResult | None = None  # None: it was not to be looked at again
    reused_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one attempt at a batch brought. Images in neither list wait for the world to heal."""

    scorer_id: int
    verdicts: Sequence[NewVerdict]
    failures: Mapping[int, ImageError]  # by image id
    waiting_for: str | None = None  # why the others wait
    store_away: bool = False  # not one image could be fetched
    n_fetched: int = 0  # images whose bytes came from the store
    seconds: Mapping[str, float] = field(default_factory=dict)  # sums by name (scanfleet.stats.stage_times)


@dataclass(frozen=True, kw_only=True)
class Known:
    """An earlier verdict of the same scorer for the same bytes."""

    verdict_id: int
    identity: str
    content_sha256: str
    width: int | None
    height: int | None
    label: str
    decision: str
    score: float | None
    margin: float
    mass: float
    logits: tuple[float, ...]
    boxes: tuple[dict[str, Any], ...] | None
    box_problems: tuple[str, ...] = ()
    crop: CropResult | None = None


def answers_by_identity(connection: sa.Connection, scorer_id: int, identities: Collection[str]) -> dict[str, Known]:
    """Earlier verdicts for the same listed version (uri and etag), so that the bytes need no fetching.

    Without those that lack a second look which was due (`CropResult.complete`): what a scan had no tokens left for,
    another one may have.
    """
    return {known.identity: known for known in _known(connection, scorer_id, Verdict.identity, identities)}


def answers_by_content(connection: sa.Connection, scorer_id: int, hashes: Collection[str]) -> dict[str, Known]:
    """Earlier verdicts for the same bytes under any name; likewise."""
    return {known.content_sha256: known for known in _known(connection, scorer_id, Verdict.content_sha256, hashes)}


def _known(
    connection: sa.Connection,
    scorer_id: int,
    column: orm.InstrumentedAttribute[str],
    values: Collection[str],
) -> list[Known]:
    if not values:
        return []
    query = (
        sa.select(Verdict, Image.width, Image.height)
        .join(Image, Image.id == Verdict.image_id)
        .where(Verdict.scorer_id == scorer_id, column.in_(list(values)))
    )
    rows = connection.execute(query.with_only_columns(*Verdict.__table__.c, Image.width, Image.height)).all()
    looks = {row.id: CropResult.read(row.crop) for row in rows}
    return [
        Known(
            verdict_id=row.reused_from or row.id,
            identity=row.identity,
            content_sha256=row.content_sha256,
            width=row.width,
            height=row.height,
            label=row.label,
            decision=row.decision,
            score=row.score,
            margin=row.margin,
            mass=row.mass,
            logits=tuple(row.logits),
            boxes=None if row.boxes is None else tuple(row.boxes),
            box_problems=tuple(row.box_problems or ()),
            crop=look,
        )
        for row in rows
        if (look := looks[row.id]) is None or look.complete
    ]


def write(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    """The one transaction that ends an attempt: token check, verdicts, failures, image states, batch, scan.

    Raises LeaseLost, and then nothing may be committed.
    """
    batches.settle(connection, held, values=_batch_values(outcome), waiting_for=outcome.waiting_for)
    _write_images(connection, held, outcome)
    if outcome.waiting_for is None:
        finish_if_complete(connection, held.scan_id)


def write_part(connection: sa.Connection, held: Claim, outcome: Outcome, *, in_hand: int) -> None:
    """Write what is known of a suspect batch so far and take its next image in hand. The lease goes on.

    Raises LeaseLost, and then nothing may be committed.
    """
    batches.go_on(connection, held, values=_batch_values(outcome), in_hand=in_hand)
    _write_images(connection, held, outcome)


def hand_back(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    """Write what is known of the batch and return the rest of it, ready at once. Raises LeaseLost."""
    batches.give_back(connection, held, values=_batch_values(outcome))
    _write_images(connection, held, outcome)


def _write_images(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    _write_verdicts(connection, held, outcome)
    failures.record(connection, scan_id=held.scan_id, failures=outcome.failures)
    if outcome.store_away and outcome.waiting_for is not None:
        count_source_error(connection, held.scan_id, waiting_for=outcome.waiting_for)
    elif outcome.n_fetched:
        release_scan(connection, held.scan_id)


def _batch_values(outcome: Outcome) -> dict[str, Any]:
    def count(decision: str) -> int:
        return sum(verdict.decision == decision for verdict in outcome.verdicts)

    progress = {"crashes": 0} if outcome.verdicts or outcome.failures else {}
    return progress | {
        "n_verdicts": Batch.n_verdicts + len(outcome.verdicts),
        "n_failures": Batch.n_failures + len(outcome.failures),
        "n_reused": Batch.n_reused + sum(verdict.reused_from is not None for verdict in outcome.verdicts),
        "n_flagged": Batch.n_flagged + count("flag"),
        "n_review": Batch.n_review + count("review"),
        "scorer_id": outcome.scorer_id,
        "seconds": dict(outcome.seconds),
    }


def _write_verdicts(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    if not outcome.verdicts:
        return
    at = now(connection)
    rows = [
        {
            "image_id": verdict.image_id,
            "scan_id": held.scan_id,
            "scorer_id": outcome.scorer_id,
            "identity": verdict.identity,
            "content_sha256": verdict.content_sha256,
            "label": verdict.label,
            "decision": verdict.decision,
            "score": verdict.score,
            "margin": verdict.margin,
            "mass": verdict.mass,
            "logits": list(verdict.logits),
            "boxes": None if verdict.boxes is None else list(verdict.boxes),
            "box_problems": list(verdict.box_problems) or None,
            "crop": None if verdict.crop is None else verdict.crop.record(),
            "reused_from": verdict.reused_from,
            "created_at": at,
        }
        for verdict in outcome.verdicts
    ]
    _upsert(connection, rows)
    image_ids = [verdict.image_id for verdict in outcome.verdicts]
    written = sa.select(Verdict.image_id, Verdict.id).where(
        Verdict.scorer_id == outcome.scorer_id, Verdict.image_id.in_(image_ids)
    )
    verdict_ids: dict[int, int] = {row.image_id: row.id for row in connection.execute(written)}
    connection.execute(
        sa.update(Image)
        .where(Image.id == sa.bindparam("b_image"))
        .values(
            state="verdict",
            verdict_id=sa.bindparam("b_verdict"),
            content_sha256=sa.bindparam("b_sha"),
            width=sa.bindparam("b_width"),
            height=sa.bindparam("b_height"),
        ),
        [
            {
                "b_image": verdict.image_id,
                "b_verdict": verdict_ids[verdict.image_id],
                "b_sha": verdict.content_sha256,
                "b_width": verdict.width,
                "b_height": verdict.height,
            }
            for verdict in outcome.verdicts
        ],
    )
    renew(connection, held.images, verdict_ids)


def _upsert(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Insert, or renew the verdict that this scorer gave this image before."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(Verdict)
    renewed = {name: insert.excluded[name] for name in rows[0] if name not in ("image_id", "scorer_id")}
    connection.execute(insert.on_conflict_do_update(index_elements=["image_id", "scorer_id"], set_=renewed), rows)
