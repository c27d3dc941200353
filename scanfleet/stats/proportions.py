"""Proportions with confidence intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054  # the normal distribution holds 95 % within this many standard deviations
CALIBRATION_IMAGES = 300  # for a mean calibration error of .03 or less on simulated margins: docs/benchmarks.md


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """k of n, with its 95 % confidence interval."""

    k: int
    n: int

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.k, self.n)


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927, JASA 22:209-212)."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = k / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def ratio_interval(k: int, n: int, k_before: int, n_before: int) -> tuple[float, float]:
    """95 % interval of (k / n) / (k_before / n_before): Katz et al. 1978, Biometrics 34:469-474.

    Half a case is added to each count, so that none at all gives an interval, too.
    """
    now, before = (k + 0.5) / (n + 0.5), (k_before + 0.5) / (n_before + 0.5)
    spread = math.sqrt(max(1 / (k + 0.5) - 1 / (n + 0.5) + 1 / (k_before + 0.5) - 1 / (n_before + 0.5), 0.0))
    return now / before * math.exp(-Z95 * spread), now / before * math.exp(Z95 * spread)


def calibration_text(n: int) -> str:
    """Return the number of images that a calibrator was fitted on, and how many a good one takes if these are fewer.

    >>> calibration_text(100)
    '100 images; about 300 are needed for a calibration error of .03'
    """
    needed = f"; about {CALIBRATION_IMAGES} are needed for a calibration error of .03"
    return f"{n} images" + (needed if n < CALIBRATION_IMAGES else "")


def positives_text(prevalence: float) -> str:
    """Return the share of positives that a precision holds at, as text.

    >>> positives_text(1 / 3), positives_text(0.02)
    ('at 33.3 % positives', 'at 2 % positives')
    """
    return f"at {100 * prevalence:.3g} % positives"
