"""Which images get a crop pass, in which order, and at which cost in total. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.types import Reading
from scanfleet.stats.counts import MASS_FLOOR

UNCERTAIN, SHRUNK, ALWAYS = "uncertain", "shrunk", "always"


class Resized(Protocol):
    """A prepared image with the size at which the model reads it."""

    @property
    def resized_size(self) -> tuple[int, int]: ...


@dataclass(frozen=True, kw_only=True)
class Band:
    """Uncertain margins of the first pass, in logits: from low to high, both included; None: no limit."""

    low: float | None
    high: float | None

    @property
    def middle(self) -> float:
        """The least certain margin. With one limit it is that limit, because the other side is open."""
        ends = [end for end in (self.low, self.high) if end is not None]
        return math.fsum(ends) / len(ends) if ends else 0.0

    def holds(self, margin: float) -> bool:
        return (self.low is None or margin >= self.low) and (self.high is None or margin <= self.high)

    def wider(self, by: float) -> Band:
        """Return a band that is wider by `by` logits on either side."""
        return Band(low=None if self.low is None else self.low - by, high=None if self.high is None else self.high + by)

    def record(self) -> dict[str, Any]:
        """Return the band as JSON data."""
        return asdict(self)


def band_of(*, thresholds: Thresholds | None, calibrator: Calibrator | None, has_flags: bool) -> Band:
    """Return the margins for which a first pass decides for review.

    Without thresholds it is the one margin at which the decision changes: the calibrator's probability of one half,
    else 0. A check without flags reviews images whose top label has a margin of 0 or less.
    """
    if not has_flags:
        return Band(low=None, high=0.0)
    if thresholds is not None:
        return Band(low=thresholds.review, high=thresholds.flag)
    even = 0.0 if calibrator is None else -calibrator.b / calibrator.a
    return Band(low=even, high=even)


def crop_reason(settings: CropSettings, reading: Reading, band: Band, *, shrink: float) -> str | None:
    """Return why an image gets a crop pass after its first pass; None if it gets none.

    band: the uncertain margins. shrink: by which factor a side of the file's picture is longer than what the model
    read. A model with little mass on the labels was not certain either, whatever the margin.
    """
    if settings.when == ALWAYS:
        return ALWAYS
    is_uncertain = band.wider(settings.band).holds(reading.margin) or reading.mass < MASS_FLOOR
    if settings.when != SHRUNK and is_uncertain:
        return UNCERTAIN
    return SHRUNK if settings.when != UNCERTAIN and shrink > settings.shrink else None


def shrink_of(size: tuple[int, int], prepared: Resized) -> float:
    """Return the shrink factor of the side that lost more. size: (width, height) in the file, before decoding."""
    return max(own / read for own, read in zip(size, prepared.resized_size, strict=True))


def order(reading: Reading, band: Band, sha256: str) -> tuple[float, str]:
    """Return a sort key: the least certain image first; among equals, the smaller content hash."""
    return abs(reading.margin - band.middle), sha256


class Allowance:
    """Limits the visual tokens of crops to a share of those of the first passes, which are counted as they end.

    It belongs to one attempt at a batch, in one thread. Every batch keeps to the share, and so does the scan, without a
    counter across workers. max_extra None: no limit. left_over: from the previous attempt, for the images that had to
    wait.
    """

    def __init__(self, max_extra: float | None, *, left_over: float = 0.0) -> None:
        self._max_extra = max_extra
        self._before = left_over
        self._earned = 0
        self._taken = 0
        self._to_earn_again = 0
        self._to_take_again = 0

    @property
    def left(self) -> float:
        """The tokens left; below 0 if a crop cost more than estimated."""
        if self._max_extra is None:
            return math.inf
        return self._before + self._max_extra * self._earned - self._taken

    @property
    def left_over(self) -> float:
        """The tokens for the next attempt, which repeats the first pass of images that wait."""
        if self._max_extra is None:
            return 0.0
        return self.left - self._max_extra * self._to_earn_again + self._to_take_again

    def postpone(self, *, first: int, granted: int) -> None:
        """Record that an image must wait. first: tokens of its first pass. granted: tokens granted for its crops.

        They stay reserved in this attempt. Else a more certain image would take its place because a device failed.
        """
        self._to_earn_again += first
        self._to_take_again += granted

    def earn(self, tokens: int) -> None:
        """Add the tokens of a first pass."""
        self._earned += tokens

    def take(self, tokens: int) -> bool:
        """Take tokens if enough are left. Return whether they were taken."""
        if tokens > self.left:
            return False
        self._taken += tokens
        return True

    def correct(self, tokens: int) -> None:
        """Correct an estimate: add the difference between the tokens used and those taken."""
        self._taken += tokens


def policy_of(check: Check, settings: CropSettings) -> CropPolicy:
    """Return the model's part of a [crop] table."""
    held: Mapping[str, Any] = settings.model_dump(exclude={"when", "band", "shrink", "max_extra"})
    return CropPolicy(**{**held, **settings.budgets(check.max_pixels)})
