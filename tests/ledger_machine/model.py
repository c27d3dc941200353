"""The rows that each operation must leave, in plain Python: a second implementation of scanfleet.db.

Times are spans: an operation reads the clock somewhere between two readings of ours, and a back-off has jitter. After
each step the ledger's own value, once it was found inside the span, replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans.batches import Claim
from tests.ledger_machine.ledger import Snapshot
from tests.ledger_machine.moments import (
    LEASE,
    MAX_CRASHES,
    MAX_NOTIFICATIONS,
    SOURCE_ERRORS,
    Moment,
    Span,
    backoff,
    backoff_over,
    lately,
    lease_expired,
)


@dataclass(kw_only=True)
class ImageModel:
    id: int
    uri: str
    state: str = "pending"
    crashes: int = 0


@dataclass(kw_only=True)
class BatchModel:
    id: int
    scan_id: str
    state: str = "ready"
    lease_owner: str | None = None
    lease_token: int = 0
    attempts: int = 0
    suspect: bool = False
    crashes: int = 0
    in_hand: int | None = None
    lease_until: Moment = None
    not_before: Moment = None
    notified_at: Moment = None
    images: list[ImageModel] = field(default_factory=list)

    @property
    def pending(self) -> list[ImageModel]:
        return [image for image in self.images if image.state == "pending"]

    def free(self) -> None:
        self.lease_owner = self.lease_until = self.in_hand = None


@dataclass(kw_only=True)
class ScanModel:
    id: str
    state: str = "running"
    n_listed: int | None = None
    trouble: int = 0
    not_before: Moment = None


class Model:
    def __init__(self, scan_ids: Iterable[str]) -> None:
        self.scans = {scan_id: ScanModel(id=scan_id) for scan_id in scan_ids}
        self.batches: dict[int, BatchModel] = {}
        self.failures: dict[int, tuple[str, str]] = {}

    # queries

    def of_scan(self, scan_id: str, *states: str) -> list[BatchModel]:
        held = (batch for batch in self.batches.values() if batch.scan_id == scan_id)
        return [batch for batch in held if not states or batch.state in states]

    def holds(self, claim: Claim, *, images: bool = True) -> bool:
        """Whether a lease is current. images: and its images are those that were claimed."""
        batch = self.batches.get(claim.batch_id)
        if batch is None or batch.state != "leased":
            return False
        lease = (batch.lease_token, batch.lease_owner, batch.scan_id)
        uris = {image.id: image.uri for image in batch.images}
        same = not images or all(uris.get(image.id) == image.uri for image in claim.images)
        return lease == (claim.token, claim.worker, claim.scan_id) and same

    def overdue(self, at: datetime) -> set[int]:
        leased = (batch for batch in self.batches.values() if batch.state == "leased")
        return {batch.id for batch in leased if lease_expired(batch.lease_until, at)}

    def next_claim(self, notified: int | None, at: datetime) -> int | None:
        """Return the batches that a claim may get."""
        free = [batch for batch in self._workable(at) if not self._on_hold(batch)]
        for batch in self._workable(at):
            if batch.id == notified and (batch in free or not self.of_scan(batch.scan_id, "leased")):
                return batch.id
        return min(((batch.attempts > 0, batch.id) for batch in free), default=(False, None))[1]

    def next_notifications(self, at: datetime) -> tuple[list[int], list[set[int]]]:
        """Return the batches to notify about, in order; and for each scan on hold those of which one is the probe."""
        free = [batch for batch in self._workable(at) if not self._on_hold(batch) and not lately(batch.notified_at, at)]
        room = max(MAX_NOTIFICATIONS - self.outstanding(at), 0)
        return [batch.id for batch in free[:room]], [
            probes for scan in self.scans if (probes := self._probes(scan, at))
        ]

    def outstanding(self, at: datetime) -> int:
        ready = (batch for scan in self.scans for batch in self.of_scan(scan, "ready") if not self._on_hold(batch))
        return sum(self.scans[batch.scan_id].state == "running" and lately(batch.notified_at, at) for batch in ready)

    def _probes(self, scan_id: str, at: datetime) -> set[int]:
        batches = self.of_scan(scan_id, "ready", "leased")
        out = any(batch.state == "leased" or lately(batch.notified_at, at) for batch in batches)
        choice = [batch for batch in self._workable(at) if batch.scan_id == scan_id and self._on_hold(batch)]
        least = min((batch.attempts for batch in choice), default=0)
        return set() if out else {batch.id for batch in choice if batch.attempts == least}

    def _on_hold(self, batch: BatchModel) -> bool:
        return self.scans[batch.scan_id].trouble >= SOURCE_ERRORS

    def _workable(self, at: datetime) -> list[BatchModel]:
        return [
            batch
            for batch in sorted(self.batches.values(), key=lambda batch: batch.id)
            if batch.state == "ready"
            and (scan := self.scans[batch.scan_id]).state == "running"
            and backoff_over(batch.not_before, at)
            and backoff_over(scan.not_before, at)
        ]

    # operations

    def listed(self, scan_id: str, members: dict[int, list[tuple[int, str]]]) -> None:
        for batch_id, listed in members.items():
            images = [ImageModel(id=image_id, uri=uri) for image_id, uri in listed]
            self.batches[batch_id] = BatchModel(id=batch_id, scan_id=scan_id, images=images)
        if members:
            self._reopen(scan_id)
            self.scans[scan_id].n_listed = None

    def listing_ended(self, scan_id: str) -> None:
        self.scans[scan_id].n_listed = sum(len(batch.images) for batch in self.of_scan(scan_id))
        self.finish(scan_id)

    def finish(self, scan_id: str) -> None:
        scan = self.scans[scan_id]
        if scan.state == "running" and scan.n_listed is not None and not self.of_scan(scan_id, "ready", "leased"):
            scan.state = "done"

    def claimed(self, batch_id: int, owner: str, at: Span) -> None:
        batch = self.batches[batch_id]
        batch.state, batch.lease_owner, batch.lease_until = "leased", owner, at.after(LEASE)
        batch.lease_token += 1
        batch.attempts += 1

    def extended(self, claim: Claim, at: Span) -> None:
        self.batches[claim.batch_id].lease_until = at.after(LEASE)

    def written(self, claim: Claim, outcome: Outcome, at: Span) -> None:
        batch = self.batches[claim.batch_id]
        batch.free()
        if outcome.waiting_for is None:
            answered = {verdict.image_id for verdict in outcome.verdicts} | set(outcome.failures)
            batch.state = "done"
            if {image.id for image in batch.pending} - answered:  # a restore lost the parts written before
                batch.state, batch.notified_at = "ready", None
        else:
            longest = backoff(claim.attempts)
            batch.state, batch.notified_at, batch.not_before = "ready", None, at.after(longest / 2, longest)
        self._answered(batch, outcome, at)
        if outcome.waiting_for is None:
            self.finish(batch.scan_id)

    def part_written(self, claim: Claim, outcome: Outcome, in_hand: int, at: Span) -> None:
        batch = self.batches[claim.batch_id]
        batch.in_hand, batch.lease_until = in_hand, at.after(LEASE)
        self._answered(batch, outcome, at)

    def handed_back(self, claim: Claim, outcome: Outcome, at: Span) -> None:
        batch = self.batches[claim.batch_id]
        batch.free()
        batch.state, batch.notified_at = "ready", None
        batch.attempts -= 1
        self._answered(batch, outcome, at)

    def _answered(self, batch: BatchModel, outcome: Outcome, at: Span) -> None:
        answers = {verdict.image_id: "verdict" for verdict in outcome.verdicts} | dict.fromkeys(
            outcome.failures, "failed"
        )
        for image in batch.images:
            image.state = answers.get(image.id, image.state)
        batch.crashes = 0 if answers else batch.crashes
        self.failures |= {image_id: (error.stage, error.reason) for image_id, error in outcome.failures.items()}
        scan = self.scans[batch.scan_id]
        if outcome.store_away and outcome.waiting_for is not None:
            self._trouble(scan, at)
        elif outcome.n_fetched and scan.trouble:
            scan.trouble, scan.not_before = 0, None
            self._forget_notifications(scan)

    def _trouble(self, scan: ScanModel, at: Span) -> None:
        if not backoff_over(scan.not_before, at.hi):
            return
        scan.trouble += 1
        if scan.trouble >= SOURCE_ERRORS:
            longest = backoff(scan.trouble - SOURCE_ERRORS + 1)
            scan.not_before = at.after(longest / 2, longest)
            self._forget_notifications(scan)

    def _forget_notifications(self, scan: ScanModel) -> None:
        for batch in self.of_scan(scan.id, "ready"):
            batch.notified_at = None

    def expired(self, batch_ids: Collection[int], at: Span) -> list[int]:
        """Expire leases. Returns the images that must be quarantined."""
        quarantined = []
        for batch in (self.batches[batch_id] for batch_id in sorted(batch_ids)):
            image = next((image for image in batch.images if image.id == batch.in_hand), None)
            batch.free()
            batch.state, batch.suspect, batch.notified_at, batch.not_before = "ready", True, None, None
            batch.crashes += 1
            if batch.crashes > 1:
                batch.not_before = at.after(backoff(batch.crashes - 1))
            if image is not None:
                image.crashes += 1
            if image is not None and image.crashes > MAX_CRASHES:
                quarantined.append(image.id)
                self._quarantined(batch, image)
        return quarantined

    def _quarantined(self, batch: BatchModel, image: ImageModel) -> None:
        image.state = "failed"
        self.failures[image.id] = ("process", "kills_the_worker")
        batch.crashes, batch.not_before = 0, None
        if not batch.pending:
            batch.state = "done"

    def notified(self, batch_ids: Iterable[int], at: Moment) -> None:
        for batch_id in batch_ids:
            self.batches[batch_id].notified_at = at

    def cancelled(self, scan_id: str) -> None:
        self.scans[scan_id].state = "cancelled"
        for batch in self.of_scan(scan_id, "ready", "leased"):
            batch.state, batch.lease_until, batch.in_hand = "cancelled", None, None
            batch.lease_token += 1
            for image in batch.pending:
                image.state = "cancelled"

    def retried(self, scan_id: str, chosen: Callable[[tuple[str, str]], bool]) -> int:
        n_retried = 0
        for batch in self.of_scan(scan_id):
            again = [image for image in batch.images if image.id in self.failures and chosen(self.failures[image.id])]
            if again:
                self._retried(batch, again)
            n_retried += len(again)
        if n_retried:
            self._reopen(scan_id)
        return n_retried

    def _retried(self, batch: BatchModel, again: Sequence[ImageModel]) -> None:
        batch.free()
        batch.state, batch.attempts, batch.crashes, batch.not_before, batch.notified_at = "ready", 0, 0, None, None
        batch.lease_token += 1
        batch.suspect = batch.suspect or any(image.crashes for image in again)
        for image in again:
            image.state, image.crashes = "pending", 0
            del self.failures[image.id]

    def _reopen(self, scan_id: str) -> None:
        scan = self.scans[scan_id]
        scan.state = "running" if scan.state == "done" else scan.state

    def shifted(self, seconds: float) -> None:
        for _, held in self._records():
            for name, value in vars(held).items():
                if isinstance(value, Span):
                    setattr(held, name, value.after(-seconds))

    # comparison

    def differences(self, seen: Snapshot) -> list[str]:
        """Return the rows in which ledger and model disagree. Spans that hold become the ledger's exact time."""
        rows: dict[str, Any] = {"scan": seen.scans, "batch": seen.batches, "image": seen.images}
        faults = [
            f"{kind} {held.id}: {name} is {getattr(rows[kind][held.id], name)}, the model says {value}"
            for kind, held in self._records()
            for name, value in vars(held).items()
            if name != "images" and not _agrees(held, name, value, getattr(rows[kind][held.id], name))
        ]
        n_images = sum(len(batch.images) for batch in self.batches.values())
        if (len(self.batches), n_images) != (len(seen.batches), len(seen.images)):
            faults.append(f"{len(seen.batches)} batches of {len(seen.images)} images, the model has {n_images}")
        failures = {failure.image_id: (failure.stage, failure.reason) for failure in seen.failures}
        if failures != self.failures:
            faults.append(f"failures are {failures}, the model says {self.failures}")
        return faults

    def _records(self) -> Iterator[tuple[str, Any]]:
        for scan in self.scans.values():
            yield "scan", scan
        for batch in self.batches.values():
            yield "batch", batch
            for image in batch.images:
                yield "image", image


def _agrees(held: Any, name: str, expected: Any, found: Any) -> bool:
    if not isinstance(expected, Span):
        return bool(expected == found)
    if found is None or not expected.lo <= found <= expected.hi:
        return False
    setattr(held, name, Span(found, found))
    return True
