"""Verdicts and failures: written in one transaction with the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.db.engine import now
from scanfleet.db.results.answers import COLUMNS, NewVerdict
from scanfleet.db.results.doubts import doubt_if_lost
from scanfleet.db.results.rescan_writes import renew
from scanfleet.db.results.scorers import ScorerRef, require_scorer
from scanfleet.db.scans import batches, failures
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.scans import finish_if_complete
from scanfleet.db.scans.source_breaker import count_source_error, release_scan
from scanfleet.db.tables import Batch, Image, Verdict
from scanfleet.db.tallies.tally import Tally, literal, of_answer, tally_with
from scanfleet.errors import ImageError
from scanfleet.stats.unlike import FAR


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one attempt at a batch. Images in neither list wait: they met a transient error."""

    scorer_id: int
    scorer: ScorerRef | None = None  # None: this very transaction found scorer_id
    verdicts: Sequence[NewVerdict]
    failures: Mapping[int, ImageError]  # by image id
    versions: Mapping[int, str] = field(default_factory=dict)  # image id -> etag, of images listed without one
    sizes: Mapping[int, int] = field(default_factory=dict)  # image id -> bytes, of the same images
    waiting_for: str | None = None  # why the others wait
    store_away: bool = False  # not one image could be fetched
    n_fetched: int = 0  # images whose bytes came from the store
    seconds: Mapping[str, float] = field(default_factory=dict)  # sums by name (scanfleet.stats.stage_times)


def write(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    """The one transaction that ends an attempt: lease check, verdicts, failures, image states, batch, scan.

    Raises LeaseLost or LedgerReplaced, as all of these, and then nothing may be committed.
    """
    batches.settle(connection, held, values=_batch_values(outcome), waiting_for=outcome.waiting_for)
    _write_images(connection, held, outcome)
    far, compared = _n_unlike(outcome)
    if outcome.scorer is not None and outcome.scorer.check.unlike == "review":
        doubt_if_lost(connection, held.scan_id, outcome.scorer_id, n_far=far, n_compared=compared)
    if outcome.waiting_for is None:
        batches.reopen_if_pending(connection, held)
        finish_if_complete(connection, held.scan_id)


def write_part(connection: sa.Connection, held: Claim, outcome: Outcome, *, in_hand: int) -> None:
    """Write the results of a suspect batch so far and mark its next image. The lease continues.

    Raises LeaseLost, and then nothing may be committed. A repeated call writes nothing again: the answer to the first
    commit may have been lost.
    """
    if batches.in_hand_of(connection, held) == in_hand:
        batches.take_in_hand(connection, held, in_hand)
        return
    batches.go_on(connection, held, values=_batch_values(outcome), in_hand=in_hand)
    _write_images(connection, held, outcome)


def hand_back(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    """Write what is known of the batch and return the rest of it, ready at once. Raises LeaseLost."""
    batches.give_back(connection, held, values=_batch_values(outcome))
    _write_images(connection, held, outcome)


def _write_images(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    if outcome.scorer is not None:
        require_scorer(connection, outcome.scorer, scan_id=held.scan_id)
    _write_verdicts(connection, held, outcome)
    batches.pin(connection, outcome.versions, outcome.sizes)
    failures.record(connection, scan_id=held.scan_id, failures=outcome.failures)
    if outcome.store_away and outcome.waiting_for is not None:
        count_source_error(connection, held.scan_id, waiting_for=outcome.waiting_for)
    elif outcome.n_fetched:
        release_scan(connection, held.scan_id)


def _batch_values(outcome: Outcome) -> dict[str, Any]:
    def count(decision: str) -> int:
        return sum(verdict.decision == decision for verdict in outcome.verdicts)

    far, compared = _n_unlike(outcome)
    counted = {"n_unlike": _more(Batch.n_unlike, far), "n_compared": _more(Batch.n_compared, compared)}
    progress = (counted if compared else {}) | ({"crashes": 0} if outcome.verdicts or outcome.failures else {})
    progress |= {"tally": tally_with(literal(_tally(outcome)))} if outcome.verdicts else {}
    return progress | {
        "n_verdicts": Batch.n_verdicts + len(outcome.verdicts),
        "n_failures": Batch.n_failures + len(outcome.failures),
        "n_reused": Batch.n_reused + sum(verdict.reused_from is not None for verdict in outcome.verdicts),
        "n_flagged": Batch.n_flagged + count("flag"),
        "n_review": Batch.n_review + count("review"),
        "scorer_id": outcome.scorer_id,
        "seconds": dict(outcome.seconds),
    }


def _tally(outcome: Outcome) -> Tally:
    found: Tally = Counter()
    for verdict in outcome.verdicts:
        frames, told = verdict.frames, verdict.explanation
        found.update(
            of_answer(
                scorer_id=outcome.scorer_id,
                label=verdict.label,
                decision=verdict.decision,
                mass=verdict.mass,
                unlike=verdict.unlike,
                doubted=verdict.doubted,
                n_frames=None if frames is None else frames.n_frames,
                n_scored=None if frames is None else frames.n_scored,
                problem=None if told is None else told.problem,
            )
        )
    return found


def _n_unlike(outcome: Outcome) -> tuple[int, int]:
    """Return how many verdicts are far from the calibration images, and how many were compared with them."""
    compared = [verdict.unlike for verdict in outcome.verdicts if verdict.unlike is not None]
    return sum(unlike >= FAR for unlike in compared), len(compared)


def _more(column: orm.InstrumentedAttribute[int | None], by: int) -> sa.ColumnElement[int]:
    return sa.func.coalesce(column, 0) + by


# Built once: each costs more to make than to run for one image.
_WRITTEN = sa.select(Verdict.image_id, Verdict.id).where(
    Verdict.scorer_id == sa.bindparam("scorer"), Verdict.image_id.in_(sa.bindparam("images", expanding=True))
)
_ANSWER_IMAGE = (
    sa.update(Image)
    .where(Image.id == sa.bindparam("b_image"))
    .values(
        state="verdict",
        verdict_id=sa.bindparam("b_verdict"),
        content_sha256=sa.bindparam("b_sha"),
        width=sa.bindparam("b_width"),
        height=sa.bindparam("b_height"),
    )
)


def _write_verdicts(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    if not outcome.verdicts:
        return
    at = now(connection)
    there = _still_there(connection, outcome.verdicts)
    rows = [
        {name: getattr(verdict, name) for name in ("image_id", "identity", *COLUMNS)}
        | {
            "scan_id": held.scan_id,
            "scorer_id": outcome.scorer_id,
            "reused_from": verdict.reused_from if verdict.reused_from in there else None,
            "box_problems": verdict.box_problems or None,
            "crop": verdict.crop and verdict.crop.record(),
            "frames": verdict.frames and verdict.frames.record(),
            "notes": verdict.notes or None,
            "explanation": verdict.explanation and verdict.explanation.record(),
            "created_at": at,
            "computed_at": verdict.computed_at,
        }
        for verdict in outcome.verdicts
    ]
    connection.execute(_upsert(connection.dialect.name, tuple(rows[0])), rows)
    these = {"scorer": outcome.scorer_id, "images": [verdict.image_id for verdict in outcome.verdicts]}
    verdict_ids: dict[int, int] = {row.image_id: row.id for row in connection.execute(_WRITTEN, these)}
    orphans = [
        verdict_ids[verdict.image_id] for verdict in outcome.verdicts if verdict.reused_from not in (None, *there)
    ]
    if orphans:  # copies of a verdict that was deleted meanwhile name themselves
        connection.execute(sa.update(Verdict).where(Verdict.id.in_(orphans)).values(reused_from=Verdict.id))
    connection.execute(
        _ANSWER_IMAGE,
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


def _still_there(connection: sa.Connection, verdicts: Sequence[NewVerdict]) -> set[int]:
    """Return which of the copied verdicts there are; they are not deleted until the transaction ends."""
    copied = [verdict.reused_from for verdict in verdicts if verdict.reused_from is not None]
    if not copied:
        return set()
    query = sa.select(Verdict.id).where(Verdict.id.in_(copied)).order_by(Verdict.id)
    return set(connection.execute(query.with_for_update(read=True, key_share=True)).scalars())


@cache
def _upsert(dialect_name: str, names: tuple[str, ...]) -> sa.Insert:
    """Insert, or renew the verdict that this scorer gave this image before. names: of the columns of a row."""
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    insert = dialect.insert(Verdict)
    renewed = {name: insert.excluded[name] for name in names if name not in ("image_id", "scorer_id")}
    return insert.on_conflict_do_update(index_elements=["image_id", "scorer_id"], set_=renewed)
