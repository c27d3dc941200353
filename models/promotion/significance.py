"""Exact tests on pairs, their correction for many slices, and the number of pairs that a test needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from scipy.special import bdtr, bdtrc


def mcnemar(won: int, lost: int) -> float:
    """Return the two-sided exact p-value of McNemar 1947 from the images on which one model alone is right.

    Args:
        won: Images that the challenger alone has right.
        lost: Images that the champion alone has right.
    """
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))


def loss_p_value(won: int, lost: int) -> float:
    """Return the one-sided exact p-value against "no more lost than won"."""
    return at_least(lost, won + lost, 0.5)


def at_least(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) >= k)."""
    return float(bdtrc(k - 1, n, p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests (Holm 1979): the smallest of m is multiplied by m, the next by m - 1 ...

    Args:
        p_values: `[tests]`, in [0, 1].

    Returns:
        `[tests]`, in the order given.
    """
    m = len(p_values)
    adjusted, highest = [1.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda at: p_values[at])):
        highest = max(highest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def images_needed(discordance: float, gain: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """Return the number of pairs that a two-sided McNemar test needs to detect a gain (Connor 1987).

    Args:
        discordance: Share of images on which one model alone is right, in [0, 1].
        gain: Difference of the two accuracies, in (0, 1]; it cannot exceed the discordance.
        level: Error of the test.
        power: Probability of detecting the gain.
    """
    gain = min(gain, 1.0)
    discordance = min(1.0, max(discordance, gain))
    normal = NormalDist()
    spread = normal.inv_cdf(1 - level / 2) * math.sqrt(discordance)
    spread += normal.inv_cdf(power) * math.sqrt(max(0.0, discordance - gain * gain))
    return math.ceil((spread / gain) ** 2)


def visible_gain(discordance: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    """Return the smallest gain that n pairs detect with this power, as a proportion in steps of 0.001.

    None: not even a gain of 100 points would be detected.
    """
    for tenths in range(1, 1001):
        if images_needed(discordance, tenths / 1000, level=level, power=power) <= n:
            return tenths / 1000
    return None
