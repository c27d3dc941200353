"""Population stability index: the distance between two distributions.

PSI = sum over bins of (a - e) ln(a / e), with e and a the shares of the expected and the actual sample. By custom a
value below .1 means no change, and from .2 on a model is examined (Siddiqi, *Credit Risk Scorecards*, Wiley 2006).
Those numbers only mean something with enough values: without any change, PSI is about (1/n + 1/m) times a chi-squared
value with bins - 1 degrees of freedom (Yurdakul and Naranjo, *Statistical properties of the population stability
index*, Journal of Risk Model Validation 14(4), 2020). `psi_mean` and `psi_noise` give the share that chance alone
explains.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

BINS = 10
SMOOTHING = 0.5  # counts added to every bin: an empty one would make the logarithm infinite
Z_95 = 1.6448536269514722  # one-sided


def psi(expected: Sequence[float], actual: Sequence[float], *, bins: int = BINS) -> float:
    """PSI of `actual` against `expected` over quantile bins of `expected`.

    Ties may leave fewer bins than asked for. Raises ValueError for an empty sample, a value that is not finite, or
    fewer than two bins.
    """
    edges = quantile_edges(expected, bins=bins)
    return psi_of_counts(counts_between(expected, edges), counts_between(actual, edges))


def psi_of_counts(expected: Sequence[int], actual: Sequence[int]) -> float:
    """PSI of two histograms over the same bins; counts are smoothed."""
    if len(expected) != len(actual) or not expected:
        raise ValueError("both histograms need the same bins")
    if min(*expected, *actual) < 0 or not sum(expected) or not sum(actual):
        raise ValueError("a histogram needs counts, none of them negative")
    return sum((a - e) * math.log(a / e) for e, a in zip(_shares(expected), _shares(actual), strict=True))


def psi_mean(n_expected: int, n_actual: int, *, bins: int = BINS) -> float:
    """Return the mean of PSI when nothing changed."""
    return (1 / n_expected + 1 / n_actual) * (bins - 1)


def psi_noise(n_expected: int, n_actual: int, *, bins: int = BINS) -> float:
    """Return the 95 % quantile of PSI when nothing changed."""
    return (1 / n_expected + 1 / n_actual) * _chi_squared_95(bins - 1)


def quantile_edges(values: Sequence[float], *, bins: int = BINS) -> list[float]:
    """Inner edges, ascending and distinct, that cut `values` into at most `bins` parts of similar size.

    A value on an edge belongs to the part above it.
    """
    if bins < 2:
        raise ValueError("PSI needs two bins or more")
    if not values:
        raise ValueError("PSI needs values")
    _refuse_infinite(values)
    ordered = sorted(values)
    least = ordered[0]
    edges = {ordered[(len(ordered) * i) // bins] for i in range(1, bins)}
    # One value only: what is below, at and above it.
    return sorted(edge for edge in edges if edge > least) or [least, math.nextafter(least, math.inf)]


def edges_of_histogram(counts: Mapping[int, int], *, width: float, bins: int = BINS) -> list[float]:
    """As `quantile_edges`, of values that were rounded to multiples of `width`: multiple -> how many.

    The edges lie half-way between two multiples. Raises ValueError for an empty histogram.
    """
    total = sum(counts.values())
    if bins < 2 or not total:
        raise ValueError("PSI needs values, and two bins or more")
    places = sorted(place for place, count in counts.items() if count)
    edges: list[float] = []
    below = part = 0  # values under this place, whole parts among them
    for place in places:
        if below * bins // total > part:
            part = below * bins // total
            edges.append((place - 0.5) * width)
        below += counts[place]
    return edges or [(places[0] - 0.5) * width, (places[-1] + 0.5) * width]


def span_of_histogram(counts: Mapping[int, int], *, width: float) -> tuple[float, float]:
    """Return the least and the largest value, widened by half of the `width` that they were rounded to."""
    places = [place for place, count in counts.items() if count]
    return (min(places) - 0.5) * width, (max(places) + 0.5) * width


def counts_between(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Count the values in each of the len(edges) + 1 parts."""
    _refuse_infinite(values)
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    return counts


def _refuse_infinite(values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError("PSI needs finite values")


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + SMOOTHING * len(counts)
    return [(count + SMOOTHING) / total for count in counts]


def _chi_squared_95(freedom: int) -> float:
    """95 % quantile by Wilson and Hilferty's approximation (1931); within 2 % from 2 degrees on."""
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + Z_95 * math.sqrt(spread)) ** 3)
