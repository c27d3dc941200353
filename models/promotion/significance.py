"""Exact tests on pairs, their correction for many slices, and how many pairs a test needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from scipy.special import bdtr, bdtrc


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p-value of McNemar 1947: the images on which one model alone is right, as coin tosses."""
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))


def loss_p_value(won: int, lost: int) -> float:
    """One-sided exact p-value against "no more lost than won"."""
    return at_least(lost, won + lost, 0.5)


def at_least(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) >= k)."""
    return float(bdtrc(k - 1, n, p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm 1979, in the order given: the smallest of m counts m-fold, the next m-1-fold ..."""
    m = len(p_values)
    adjusted, highest = [1.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda at: p_values[at])):
        highest = max(highest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def images_needed(discordance: float, gain: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """Pairs that a two-sided McNemar test needs to see a gain (Connor 1987).

    discordance: share of images on which one model alone is right. gain: difference of the two accuracies; more than
    the discordance it cannot be.
    """
    gain = min(gain, 1.0)
    discordance = min(1.0, max(discordance, gain))
    normal = NormalDist()
    spread = normal.inv_cdf(1 - level / 2) * math.sqrt(discordance)
    spread += normal.inv_cdf(power) * math.sqrt(max(0.0, discordance - gain * gain))
    return math.ceil((spread / gain) ** 2)


def visible_gain(discordance: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest gain that n pairs show with this power, to a tenth of a point; None: not even one of 100 points."""
    for tenths in range(1, 1001):
        if images_needed(discordance, tenths / 1000, level=level, power=power) <= n:
            return tenths / 1000
    return None
