"""Counts over the verdicts of one scorer, which drift is judged from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scanfleet.stats.proportions import Proportion
from scanfleet.stats.psi import psi_mean, psi_of_counts

MIN_IMAGES = 200  # verdicts on both sides before a distribution is judged
STEPS = 50  # shares of positives that are tried
MASS_FLOOR = 0.9  # below it the model rarely answers with a label: prompt or adapter is suspect


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts over verdicts of one scorer. bins: between the edges of the reference."""

    bins: tuple[int, ...]
    n_flag: int
    n_review: int
    n_low_mass: int  # under MASS_FLOOR
    mean_mass: float
    n_outside: int = 0  # below or above all margins of the reference
    n_far: int = 0  # as unlike the calibration images as a tenth of these are (scanfleet.stats.unlike)
    n_compared: int = 0  # with those
    far_bins: tuple[int, ...] = ()  # the far ones, between the same edges; empty: they were not counted

    @property
    def n(self) -> int:
        return sum(self.bins)


@dataclass(frozen=True, kw_only=True)
class CalibrationMargins:
    """Histograms of the margins that an adapter was calibrated on: of images that should flag, and of others.

    edges: between their bins. span: from the least margin to the largest.
    """

    edges: tuple[float, ...]
    span: tuple[float, float]
    positive: tuple[int, ...]
    negative: tuple[int, ...]

    @property
    def n(self) -> int:
        return sum(self.positive) + sum(self.negative)

    def least_psi(self, bins: Sequence[int]) -> float:
        """Return the PSI against the mixture of both kinds that fits best: an archive has its own share of each."""
        parts = [part for part in (self.positive, self.negative) if sum(part)]
        shares = [[n / sum(part) for n in part] for part in parts]
        mixtures = (
            [self.n * sum(w * share[at] for w, share in zip(weights, shares, strict=True)) for at in range(len(bins))]
            for weights in (
                [(step / STEPS, 1 - step / STEPS) for step in range(STEPS + 1)] if len(parts) > 1 else [(1.0,)]
            )
        )
        return min(psi_of_counts([round(n) for n in mixture], bins) for mixture in mixtures)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Verdicts of one scorer in one scan, or in one source of it (None: the whole scan), with their reference.

    before: counts of the reference; None: there is none, or these images are it. reference: its scan and source as
    text, also where `before` is None because these are the reference's own images.
    """

    scan: str
    scorer_id: int
    scorer: str  # as text
    source: str | None
    tally: Tally
    before: Tally | None
    reference: str | None
    zero_shot: bool = False  # by the base alone
    calibration: CalibrationMargins | None = None  # of a first scan, whose bins are between its edges; None: unknown
    n_calibration: int = 0  # images that the adapter's `unlike` compares with; 0: it has none

    @property
    def far_share(self) -> float | None:
        """The share of images that are far from the calibration images; None: they were not compared."""
        return self.tally.n_far / self.tally.n_compared if self.tally.n_compared else None

    @property
    def comparable(self) -> bool:
        return self.before is not None and min(self.tally.n, self.before.n) >= MIN_IMAGES

    @property
    def psi(self) -> float | None:
        """The PSI of the margins; None without a reference."""
        return None if self.before is None else psi_of_counts(self.before.bins, self.tally.bins)

    @property
    def psi_by_chance(self) -> float | None:
        """The mean of the PSI if nothing had changed."""
        if self.before is None:
            return None
        return psi_mean(self.before.n, self.tally.n, bins=len(self.tally.bins))

    @property
    def flag_rate(self) -> Proportion:
        return Proportion(k=self.tally.n_flag, n=self.tally.n)

    @property
    def flag_ratio(self) -> float | None:
        """Flag rate over that of the reference; None without one, or where it flagged nothing."""
        if self.before is None or not self.before.n_flag:
            return None
        return (self.tally.n_flag / self.tally.n) / (self.before.n_flag / self.before.n)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Counts over people's labels of images whose answer they were shown.

    overridden: label differs from the answer. missed: of images shown as clear, those that should have been flagged.
    recall: of images that should have been flagged, those that were not shown as clear.
    positive: images that should be flagged; in a random sample this estimates the check's `prevalence`.
    """

    drawn: Literal["all", "random"]
    overridden: Proportion
    missed: Proportion
    recall: Proportion
    positive: Proportion
