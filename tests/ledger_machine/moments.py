"""Times in the model, and a second implementation of the ledger's rules about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

LEASE = 60.0  # seconds
RENOTIFY = 30.0
MAX_NOTIFICATIONS = 3
MAX_CRASHES = 2
SOURCE_ERRORS = 3  # consecutive batches without store, after which a scan is held
SLACK = 60.0  # between clocks
MAX_BACKOFF = 60.0
MAX_LEASE = 600.0


@dataclass(frozen=True)
class Span:
    """A moment between two readings of the clock."""

    lo: datetime
    hi: datetime

    def after(self, least: float, most: float | None = None) -> Span:
        longest = least if most is None else most
        return Span(self.lo + timedelta(seconds=least), self.hi + timedelta(seconds=longest))


Moment = Span | None


def backoff(attempts: int) -> float:
    return float(min(2 ** max(attempts - 1, 0), MAX_BACKOFF))


# A time further ahead than anything that is ever written was written before the clock was set back.


def backoff_over(not_before: Moment, at: datetime) -> bool:
    return not_before is None or not at < not_before.lo <= at + timedelta(seconds=MAX_BACKOFF + SLACK)


def lease_expired(lease_until: Moment, at: datetime) -> bool:
    return lease_until is not None and not at <= lease_until.lo <= at + timedelta(seconds=MAX_LEASE + SLACK)


def lately(notified_at: Moment, at: datetime) -> bool:
    earliest, latest = at - timedelta(seconds=RENOTIFY), at + timedelta(seconds=SLACK)
    return notified_at is not None and earliest <= notified_at.lo <= latest
