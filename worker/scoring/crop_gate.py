"""Which images are looked at again, in which order, and for how much in all. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from models.adapters.calibration import Calibrator, Thresholds
from models.crops.policy import CropPolicy
from models.types import Reading
from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from worker.scoring.decisions import MASS_FLOOR

UNCERTAIN, SHRUNK, ALWAYS = "uncertain", "shrunk", "always"


class Resized(Protocol):
    """A prepared image that says how many pixels of it the model reads."""

    @property
    def resized_size(self) -> tuple[int, int]: ...


@dataclass(frozen=True, kw_only=True)
class Band:
    """Margins of the first look, in logits, that settle nothing: from low to high, both included; None: no end."""

    low: float | None
    high: float | None

    @property
    def middle(self) -> float:
        """The least certain margin; with one end that end, because nothing is known of the other side."""
        ends = [end for end in (self.low, self.high) if end is not None]
        return math.fsum(ends) / len(ends) if ends else 0.0

    def holds(self, margin: float) -> bool:
        return (self.low is None or margin >= self.low) and (self.high is None or margin <= self.high)

    def wider(self, by: float) -> Band:
        """By so many logits on either side."""
        return Band(low=None if self.low is None else self.low - by, high=None if self.high is None else self.high + by)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def band_of(*, thresholds: Thresholds | None, calibrator: Calibrator | None, has_flags: bool) -> Band:
    """Where a first look decides for review, by how its margins are read.

    Without thresholds it is the one margin at which the decision turns: the calibrator's even chance, else 0. A check
    without flags reviews what its top label wins by less than nothing.
    """
    if not has_flags:
        return Band(low=None, high=0.0)
    if thresholds is not None:
        return Band(low=thresholds.review, high=thresholds.flag)
    even = 0.0 if calibrator is None else -calibrator.b / calibrator.a
    return Band(low=even, high=even)


def crop_reason(settings: CropSettings, reading: Reading, band: Band, *, shrink: float) -> str | None:
    """Why an image is to be looked at again after its first look; None: it is not.

    band: where a first look settles nothing. shrink: how many times longer a side of the file's picture is than what
    the model read of it. A model that hardly spoke in labels was not certain either, whatever the margin.
    """
    if settings.when == ALWAYS:
        return ALWAYS
    is_uncertain = band.wider(settings.band).holds(reading.margin) or reading.mass < MASS_FLOOR
    if settings.when != SHRUNK and is_uncertain:
        return UNCERTAIN
    return SHRUNK if settings.when != UNCERTAIN and shrink > settings.shrink else None


def shrink_of(size: tuple[int, int], prepared: Resized) -> float:
    """size: (width, height) of the file's picture: it may have been decoded smaller. The side that lost more counts."""
    return max(own / read for own, read in zip(size, prepared.resized_size, strict=True))


def order(reading: Reading, band: Band, sha256: str) -> tuple[float, str]:
    """Sorts the least certain images to the front; of equal ones the smaller content hash."""
    return abs(reading.margin - band.middle), sha256


class Allowance:
    """Visual tokens that second looks may take: a share of those of the first looks, which are counted as they come.

    Of one attempt at a batch, in one thread. Sums of batches keep to the same share, so that a scan does, too, without
    anybody counting over workers. max_extra None: as many as they take. left_over: by the attempt before, for the
    images that had to wait.
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
        """Tokens; below 0 where something cost more than was said beforehand."""
        if self._max_extra is None:
            return math.inf
        return self._before + self._max_extra * self._earned - self._taken

    @property
    def left_over(self) -> float:
        """For the next attempt, in which images that wait are looked at anew from the first look on."""
        if self._max_extra is None:
            return 0.0
        return self.left - self._max_extra * self._to_earn_again + self._to_take_again

    def postpone(self, *, first: int, granted: int) -> None:
        """An image waits after all: tokens of its first look, and of the second as far as it was granted.

        For now they stay with it. Else an image that is more certain would take its place because a device failed.
        """
        self._to_earn_again += first
        self._to_take_again += granted

    def earn(self, tokens: int) -> None:
        """A first look read so many."""
        self._earned += tokens

    def take(self, tokens: int) -> bool:
        """Whether there were so many left; they are taken then."""
        if tokens > self.left:
            return False
        self._taken += tokens
        return True

    def correct(self, tokens: int) -> None:
        """What was taken came to so many more, or fewer."""
        self._taken += tokens


def policy_of(check: Check, settings: CropSettings) -> CropPolicy:
    """The model-side half of a crop table."""
    held: Mapping[str, Any] = settings.model_dump(exclude={"when", "band", "shrink", "max_extra"})
    return CropPolicy(**{**held, **settings.budgets(check.max_pixels)})
