"""Certified thresholds: the margins at which a promised recall or precision holds with a stated confidence.

Exact binomial tests of the Clopper-Pearson type, walked in a fixed sequence as in Learn-then-Test (Angelopoulos et al.
2021).

Look-alikes are one witness. Each cluster has weight 1, shared evenly by its images: what a sample of one image a
cluster gives on average, so correlation inside a cluster cannot make the bound too narrow (within-cluster resampling,
Hoffman, Sen and Weinberg 2001; inverse cluster sizes as weights, Williamson, Datta and Satten 2003). Sums of weights
enter the binomial tail through the incomplete beta function, as in Korn and Graubard 1998. `python -m bench
certificates` compares it with other ways. The promise is about an image of a random cluster: clusters whose size goes
with their difficulty weigh as much as small ones.

Precision depends on the share of positives. Recall and false-positive rate are taken to be the same in the archive as
on the labels (label shift), so another share moves the log-odds of precision by a constant (Elkan 2001), and the target
is tested at the place where it stands on the labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc, expit, logit

LEAST_FLAGGED = 30  # clusters; with fewer no precision is certified
ROUNDING = 1e-9  # of sums of weights


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The outcome of one threshold walk.

    Attributes:
        target: Recall or precision to certify, in (0, 1).
        confidence: 1 - delta of the tests.
        threshold: A margin in logits; None: these labels do not certify the target.
        achieved: The proportion at the threshold, or at the most favourable one when the target is unmet.
        trials, failures: What the test counted, each cluster as one: positives and misses, or flagged images and wrong
            ones. Fractions where a part of a cluster counts.
        prevalence: Share of positives that `target` and `achieved` refer to; None: recall, or an old card.
        on_labels: The target as it stands at the prevalence of the labels; None: `target` itself.
    """

    target: float
    confidence: float
    threshold: float | None
    achieved: float
    trials: float
    failures: float
    prevalence: float | None = None
    on_labels: float | None = None

    @property
    def met(self) -> bool:
        return self.threshold is not None

    def in_archive(self, proportion: float) -> float:
        """Return a proportion on the labels as it is at `prevalence`."""
        held = self.target if self.on_labels is None else self.on_labels
        return shifted(proportion, float(logit(self.target) - logit(held)))

    @property
    def fewest(self) -> float:
        """The clusters without a failure that certify the target: the least n with target^n <= 1 - confidence.

        >>> Certificate(target=0.95, confidence=0.95, threshold=None, achieved=1.0, trials=9, failures=0).fewest
        59
        """
        return _fewest(self.target if self.on_labels is None else self.on_labels, 1 - self.confidence)


def certify_recall(
    margins: Sequence[float],
    positive: Sequence[bool],
    *,
    target: float,
    delta: float = 0.05,
    clusters: Sequence[str] | None = None,
) -> Certificate:
    """Find the highest threshold at which recall >= target holds with confidence 1 - delta, at any prevalence.

    The walk goes up over the positives' margins while P(Bin(n, 1 - target) <= misses) <= delta, and stops at the first
    failure (Learn-then-Test). Certifying .95 takes 59 clusters of positives without a miss, 100 with one, 200 with
    four, 500 with sixteen.

    Args:
        margins: `[images]`, in logits; an image is flagged from the threshold on.
        positive: `[images]`.
        target: Recall to certify, in (0, 1).
        delta: Probability of certifying wrongly.
        clusters: `[images]` names shared by look-alikes; None: no two images are alike.
    """
    names = clusters or range(len(margins))
    found = [(m, name) for m, p, name in zip(margins, positive, names, strict=True) if p]
    weights = _weights([name for _, name in found])
    hits = sorted((m, weight) for (m, _), weight in zip(found, weights, strict=True))
    total = math.fsum(weights)
    best: tuple[float | None, float] = (None, 0.0)
    missed = 0.0
    for at, (t, weight) in enumerate(hits):
        # Equal margins cannot be told apart: same threshold, same misses.
        if not at or hits[at - 1][0] != t:
            if _at_most(missed, total, 1 - target) > delta:
                break
            best = (t, missed)
        missed += weight
    threshold, misses = best
    return Certificate(
        target=target,
        confidence=1 - delta,
        threshold=threshold,
        achieved=1 - misses / total if hits else 0.0,
        trials=_count(total),
        failures=_count(misses),
    )


def certify_precision(
    margins: Sequence[float],
    positive: Sequence[bool],
    *,
    target: float,
    delta: float = 0.05,
    prevalence: float | None = None,
    clusters: Sequence[str] | None = None,
) -> Certificate:
    """Find the lowest threshold at which precision >= target holds with confidence 1 - delta.

    The walk goes down from the smallest flagged set that can be certified at all (at least LEAST_FLAGGED), and stops at
    the first failure. Where the archive has fewer positives than the labels, that set is larger: precision .95 takes 59
    flagged clusters without an error at the labels' own prevalence, and about 1,400 at 2 % where the labels have 33 %.

    Args:
        margins: `[images]`, in logits; an image is flagged from the threshold on.
        positive: `[images]`.
        target: Precision to certify, in (0, 1).
        delta: Probability of certifying wrongly.
        prevalence: Share of positives in the archive, in (0, 1); None: that of these labels.
        clusters: `[images]` names shared by look-alikes; None: no two images are alike.
    """
    weights = _weights(clusters or range(len(margins)))
    total = math.fsum(weights)
    own = math.fsum(w for w, p in zip(weights, positive, strict=True) if p) / total if total else 0.0
    step = 0.0 if prevalence is None else float(logit(prevalence) - logit(own))  # infinite where one kind is missing
    wanted = shifted(target, -step)
    start = max(LEAST_FLAGGED, _fewest(wanted, delta))
    ranked = sorted(zip(margins, positive, weights, strict=True), key=lambda image: -image[0])
    best: tuple[float | None, float, float] = (None, 0.0, 0.0)
    flagged, wrong = 0.0, 0.0
    for n, (t, is_positive, weight) in enumerate(ranked, start=1):
        flagged, wrong = flagged + weight, wrong + (0.0 if is_positive else weight)
        if flagged < start - ROUNDING or (n < len(ranked) and ranked[n][0] == t):
            continue
        if _at_most(wrong, flagged, 1 - wanted) > delta:
            best = (None, flagged, wrong) if best[0] is None else best
            break
        best = (t, flagged, wrong)
    threshold, trials, failures = best
    achieved = 1 - failures / trials if trials else 0.0
    return Certificate(
        target=target,
        confidence=1 - delta,
        threshold=threshold,
        achieved=shifted(achieved, step),
        trials=_count(trials),
        failures=_count(failures),
        prevalence=own if prevalence is None else prevalence,
        on_labels=wanted,
    )


def shifted(precision: float, by: float) -> float:
    """Return a precision where the log-odds of a positive are higher by `by`.

    >>> round(shifted(0.95, logit(0.02) - logit(1 / 3)), 2)
    0.44
    """
    return precision if by == 0 or precision in (0, 1) else float(expit(logit(precision) + by))


def _weights(clusters: Sequence[object]) -> list[float]:
    sizes = Counter(clusters)
    return [1 / sizes[name] for name in clusters]


def _at_most(failures: float, trials: float, p: float) -> float:
    """P(Bin(trials, p) <= failures), continued to fractions."""
    return 1.0 if failures >= trials - ROUNDING else float(betainc(trials - failures, failures + 1, 1 - p))


def _fewest(target: float, delta: float) -> float:
    return math.inf if target >= 1 else math.ceil(math.log(delta) / math.log(target)) if target > 0 else 1


def _count(weights: float) -> float:
    """A sum of weights, as a whole number where it is one."""
    whole = round(weights)
    return whole if abs(weights - whole) < 1e-6 else round(weights, 2)
