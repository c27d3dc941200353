"""Invariants of the rows of every ledger at every moment, also while several transactions run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from scanfleet.db.scans.source_breaker import LIMIT
from scanfleet.db.tallies.tally import of_rows
from tests.ledger_machine.ledger import Snapshot


def violations(seen: Snapshot) -> list[str]:
    return [*_images(seen), *_batches(seen), *_scans(seen)]


def forgotten(before: Snapshot, after: Snapshot) -> list[str]:
    """Compare two states: tokens grow, an answered image stays answered, nothing disappears."""
    faults = [
        f"batch {row.id}: token {row.lease_token} became {after.batches[row.id].lease_token}"
        for row in before.batches.values()
        if after.batches[row.id].lease_token < row.lease_token
    ]
    faults += [
        f"image {row.id}: {row.state} became {after.images[row.id].state}"
        for row in before.images.values()
        if row.state in ("verdict", "cancelled") and after.images[row.id].state != row.state
    ]
    answers = {row.id for row in after.verdicts}
    return faults + [f"verdict {row.id} is gone" for row in before.verdicts if row.id not in answers]


def _images(seen: Snapshot) -> Iterator[str]:
    answers = defaultdict(list)
    for verdict in seen.verdicts:
        answers[verdict.image_id].append(verdict.id)
    renewed = {image.rescan_of: answers[image.id] for image in seen.images.values() if image.rescan_of is not None}
    failed = Counter(failure.image_id for failure in seen.failures)
    for image in seen.images.values():
        own = answers[image.id]
        if len(own) != (image.state == "verdict"):
            yield f"image {image.id} is {image.state} with the verdicts {own}"
        newest = max([*own, *renewed.get(image.id, [])], default=None)
        if image.verdict_id != newest:
            yield f"image {image.id} is answered by {image.verdict_id}, its newest verdict is {newest}"
        stood = answers[image.rescan_of] if image.rescan_of is not None and own else [None]
        if [image.replaced] != stood:
            yield f"image {image.id} replaced {image.replaced}, there stood {stood}"
        if failed[image.id] != (image.state == "failed"):
            yield f"image {image.id} is {image.state} with {failed[image.id]} failures"
        if image.state == "cancelled" and seen.batches[image.batch_id].state != "cancelled":
            yield f"image {image.id} is cancelled, its batch is not"


def _batches(seen: Snapshot) -> Iterator[str]:
    members = defaultdict(list)
    for image in seen.images.values():
        members[image.batch_id].append(image)
    answers = {verdict.id: verdict for verdict in seen.verdicts}
    for batch in seen.batches.values():
        yield from _counts(batch, members[batch.id], answers)
        yield from _lease(batch, {image.id for image in members[batch.id] if image.state == "pending"})


def _counts(batch: Any, images: list[Any], answers: dict[int, Any]) -> Iterator[str]:
    states = Counter(image.state for image in images)
    mine = {image.id for image in images}
    given = [verdict for verdict in answers.values() if verdict.image_id in mine]
    decisions = Counter(answers[image.verdict_id].decision for image in images if image.verdict_id in answers)
    rows = {
        "n_images": len(images),
        "n_verdicts": states["verdict"],
        "n_failures": states["failed"],
        "n_flagged": decisions["flag"],
        "n_review": decisions["review"],
        "n_reused": sum(verdict.reused_from is not None for verdict in given),
    }
    for name, number in rows.items():
        if getattr(batch, name) != number:
            yield f"batch {batch.id}: {name} is {getattr(batch, name)}, its images say {number}"
    current = [answers[image.verdict_id] for image in images if image.verdict_id in answers]
    if (batch.tally or {}) != of_rows(current):
        yield f"batch {batch.id}: the tally is {batch.tally}, its images say {of_rows(current)}"


def _lease(batch: Any, pending: set[int]) -> Iterator[str]:
    leased = batch.state == "leased"
    if (batch.lease_until is not None) != leased:
        yield f"batch {batch.id} is {batch.state} with a lease until {batch.lease_until}"
    if leased and batch.lease_owner is None:
        yield f"batch {batch.id} is leased to nobody"
    if batch.in_hand is not None and not (leased and batch.suspect and batch.in_hand in pending):
        yield f"batch {batch.id} ({batch.state}, suspect {batch.suspect}) has {batch.in_hand} in hand"
    if batch.state in ("done", "cancelled") and pending:
        yield f"batch {batch.id} is {batch.state} with pending images {sorted(pending)}"
    if batch.attempts < 0:
        yield f"batch {batch.id} was attempted {batch.attempts} times"


def _scans(seen: Snapshot) -> Iterator[str]:
    states = defaultdict(set)
    for batch in seen.batches.values():
        states[batch.scan_id].add(batch.state)
    for scan in seen.scans.values():
        opened = states[scan.id] & {"ready", "leased"}
        if scan.state in ("done", "cancelled") and opened:
            yield f"scan {scan.id} is {scan.state} with {sorted(opened)} batches"
        if scan.state == "done" and scan.n_listed is None:
            yield f"scan {scan.id} is done while its listing goes on"
        if (scan.finished_at is not None) != (scan.state in ("done", "cancelled")):
            yield f"scan {scan.id} is {scan.state} and finished at {scan.finished_at}"
        if (scan.trouble >= LIMIT) != (scan.not_before is not None) or (scan.not_before and not scan.waiting_for):
            yield f"scan {scan.id}: trouble {scan.trouble}, not before {scan.not_before}, waits for {scan.waiting_for}"
        if scan.state != "cancelled" and "cancelled" in states[scan.id]:
            yield f"scan {scan.id} is {scan.state} with cancelled batches"
