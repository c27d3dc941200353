"""Verdicts and failures: written in one transaction with the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from scanfleet.db.leases import By, Plus
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.doubts import doubt_if_lost
from scanfleet.db.results.rescan_writes import renew
from scanfleet.db.results.scorers import ScorerRef, require_scorer, stored_scorer
from scanfleet.db.results.verdict_rows import write_rows
from scanfleet.db.scans import batches, failures
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.scans import finish_if_complete
from scanfleet.db.scans.source_breaker import count_source_error, release_scan
from scanfleet.db.tables import Verdict
from scanfleet.db.tallies.tally import Tally, of_answer, tally_with
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
    wanted = _wanted(connection, outcome)
    values = _batch_values(outcome)
    seen = batches.settle(connection, held, values=values, waiting_for=outcome.waiting_for, returning=wanted)
    _write_images(connection, held, outcome, seen)
    far, compared = _n_unlike(outcome)
    if outcome.scorer is not None and outcome.scorer.check.unlike == "review":
        doubt_if_lost(connection, held.scan_id, outcome.scorer_id, n_far=far, n_compared=compared)
    if outcome.waiting_for is None:
        if held.suspect:
            batches.reopen_if_pending(connection, held)
        if seen.last:
            finish_if_complete(connection, held.scan_id)


def write_part(connection: sa.Connection, held: Claim, outcome: Outcome, *, in_hand: int) -> None:
    """Write the results of a suspect batch so far and mark its next image. The lease continues.

    Raises LeaseLost, and then nothing may be committed. A repeated call writes nothing again: the answer to the first
    commit may have been lost.
    """
    if batches.in_hand_of(connection, held) == in_hand:
        batches.take_in_hand(connection, held, in_hand)
        return
    wanted = _wanted(connection, outcome)
    seen = batches.go_on(connection, held, values=_batch_values(outcome), in_hand=in_hand, returning=wanted)
    _write_images(connection, held, outcome, seen)


def hand_back(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    """Write what is known of the batch and return the rest of it, ready at once. Raises LeaseLost."""
    wanted = _wanted(connection, outcome)
    _write_images(
        connection, held, outcome, batches.give_back(connection, held, values=_batch_values(outcome), returning=wanted)
    )


def _wanted(connection: sa.Connection, outcome: Outcome) -> list[sa.Label[Any]]:
    return [] if outcome.scorer is None else [stored_scorer(connection.dialect.name)]


def _write_images(connection: sa.Connection, held: Claim, outcome: Outcome, seen: sa.Row[Any]) -> None:
    """seen: of the batch's scan, and of its scorer if the outcome names one."""
    if outcome.scorer is not None:
        require_scorer(connection, outcome.scorer, seen.scorer)
    _write_verdicts(connection, held, outcome)
    unanswered = outcome.versions.keys() - {verdict.image_id for verdict in outcome.verdicts}
    batches.pin(connection, {image_id: outcome.versions[image_id] for image_id in sorted(unanswered)}, outcome.sizes)
    if outcome.failures:
        batches.require_images(connection, held)
        failures.record(connection, scan_id=held.scan_id, failures=outcome.failures)
    if outcome.store_away and outcome.waiting_for is not None:
        count_source_error(connection, held.scan_id, waiting_for=outcome.waiting_for)
    elif outcome.n_fetched and seen.trouble:
        release_scan(connection, held.scan_id)


def _batch_values(outcome: Outcome) -> dict[str, Any]:
    def count(decision: str) -> int:
        return sum(verdict.decision == decision for verdict in outcome.verdicts)

    far, compared = _n_unlike(outcome)
    counted = {"n_unlike": Plus(far), "n_compared": Plus(compared)}
    progress: dict[str, Any] = (counted if compared else {}) | (
        {"crashes": 0} if outcome.verdicts or outcome.failures else {}
    )
    progress |= {"tally": By(dict(_tally(outcome)), tally_with)} if outcome.verdicts else {}
    return progress | {
        "n_verdicts": Plus(len(outcome.verdicts)),
        "n_failures": Plus(len(outcome.failures)),
        "n_reused": Plus(sum(verdict.reused_from is not None for verdict in outcome.verdicts)),
        "n_flagged": Plus(count("flag")),
        "n_review": Plus(count("review")),
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


def _write_verdicts(connection: sa.Connection, held: Claim, outcome: Outcome) -> None:
    if not outcome.verdicts:
        return
    there = _still_there(connection, outcome.verdicts)
    verdict_ids = write_rows(
        connection,
        held,
        outcome.scorer_id,
        outcome.verdicts,
        reused=there,
        versions=outcome.versions,
        sizes=outcome.sizes,
    )
    orphans = [
        verdict_ids[verdict.image_id] for verdict in outcome.verdicts if verdict.reused_from not in (None, *there)
    ]
    if orphans:  # copies of a verdict that was deleted meanwhile name themselves
        connection.execute(sa.update(Verdict).where(Verdict.id.in_(orphans)).values(reused_from=Verdict.id))
    renew(connection, held.images, verdict_ids)


def _still_there(connection: sa.Connection, verdicts: Sequence[NewVerdict]) -> set[int]:
    """Return which of the copied verdicts there are; they are not deleted until the transaction ends."""
    copied = [verdict.reused_from for verdict in verdicts if verdict.reused_from is not None]
    if not copied:
        return set()
    query = sa.select(Verdict.id).where(Verdict.id.in_(copied)).order_by(Verdict.id)
    return set(connection.execute(query.with_for_update(read=True, key_share=True)).scalars())
