"""From margins to probabilities and decisions: Platt scaling, certified thresholds, and their honest error
bars.

Applying a calibrator needs nothing but `math`; fitting one imports scikit-learn when it is called. Sources:
Platt 1999 (smoothed targets); Clopper-Pearson type exact binomial tests walked in a fixed sequence, as in
Learn-then-Test (Angelopoulos et al. 2021), for the thresholds; Wilson 1927 for intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from scipy.special import bdtr, expit, logit

from models.errors import ModelInvalid

Decision = Literal["clear", "review", "flag"]


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """Platt scaling p = sigmoid(a * margin + b), a > 0, fitted on n images of which `prevalence` were
    positive.

    Valid for one combination of base revision, precision, adapter, prompt, pixel budget and crop mode only.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}  # when read from a file

    a: float
    b: float
    n: int
    prevalence: float
    method: Literal["platt"] = "platt"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and math.isfinite(self.b) and self.a > 0):
            raise ValueError("a calibrator needs finite a > 0 and b; fit it again on labelled images")
        if self.n < 1 or not 0 < self.prevalence < 1:
            raise ValueError("a calibrator needs n >= 1 and a prevalence between 0 and 1")

    def probability(self, margin: float, *, prevalence: float | None = None) -> float:
        """Probability that the image is positive, for the fitting set's prevalence or another one.

        Precision on a balanced set is not precision in an archive: state the prevalence beside the number.
        """
        log_odds = self.a * margin + self.b
        if prevalence is not None:
            if not 0 < prevalence < 1:
                raise ValueError(f"a prevalence must lie between 0 and 1, not {prevalence}")
            log_odds += logit(prevalence) - logit(self.prevalence)
        return float(expit(log_odds))


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Decisions on the raw margin: clear < review <= review band < flag <= flag.

    In margins, not probabilities, so that a change of prevalence or calibrator moves no decision. review
    None: recall could not be certified, so nothing is cleared. flag None: precision could not be certified,
    so nothing is flagged without a person. An unmet target is never silently relaxed.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    review: float | None
    flag: float | None

    def __post_init__(self) -> None:
        for value in (self.review, self.flag):
            if value is not None and not math.isfinite(value):
                raise ValueError("thresholds must be finite margins or null")
        if self.review is not None and self.flag is not None and self.review > self.flag:
            raise ValueError("the review threshold must not be above the flag threshold")

    def decide(self, margin: float) -> Decision:
        if self.flag is not None and margin >= self.flag:
            return "flag"
        if self.review is not None and margin < self.review:
            return "clear"
        return "review"

    def apart(self, by: float) -> Thresholds:
        """Both moved away from the middle by so many logits: what may have moved as far is left to a person."""
        return Thresholds(
            review=None if self.review is None else self.review - by,
            flag=None if self.flag is None else self.flag + by,
        )


UNCALIBRATED = Thresholds(review=0.0, flag=0.0)  # the model's own preference, for a base model without labels


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The outcome of one threshold walk.

    threshold: a margin; None when the target is unmet on these labels.
    achieved: the proportion seen at the threshold (at the most favourable threshold when unmet).
    trials, failures: what the binomial test saw there (positives and misses, or flagged and wrong ones).
    """

    target: float
    confidence: float
    threshold: float | None
    achieved: float
    trials: int
    failures: int

    @property
    def met(self) -> bool:
        return self.threshold is not None


def fit_platt(margins: Sequence[float], positive: Sequence[bool]) -> Calibrator:
    """Fit Platt scaling with Platt's smoothed targets. Needs both classes.

    Fractional targets are given to scikit-learn as two weighted copies of each image.
    Raises ModelInvalid when one class is missing or when higher margins do not mean positive.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    x, y = np.asarray(margins, dtype=np.float64), np.asarray(positive, dtype=bool)
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if not n_pos or not n_neg:
        raise ModelInvalid("calibration needs labelled images of both kinds")
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    target = np.where(y, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    z = ((x - centre) / scale)[:, None]
    model = LogisticRegression(C=1e10, tol=1e-8, max_iter=1000).fit(
        np.concatenate([z, z]), np.repeat([1, 0], len(x)), sample_weight=np.concatenate([target, 1 - target])
    )
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise ModelInvalid("higher margins do not mean positive on these labels; check labels and adapter")
    a = slope / scale
    b = float(model.intercept_[0]) - a * centre
    return Calibrator(a=a, b=b, n=len(x), prevalence=n_pos / len(x))


def certify_recall(
    margins: Sequence[float], positive: Sequence[bool], *, target: float, delta: float = 0.05
) -> Certificate:
    """The highest threshold t at which recall >= target holds with confidence 1 - delta (flagged: margin >=
    t).

    Walks t upward over the positives' margins while P(Bin(n, 1 - target) <= misses) <= delta, and stops at
    the first failure. Certifying .95 takes 59 positives without a miss, 100 with one, 200 with four, 500
    with sixteen.
    """
    hits = sorted(m for m, p in zip(margins, positive, strict=True) if p)
    best: tuple[float | None, int] = (None, 0)
    for at, t in enumerate(hits):
        if at and hits[at - 1] == t:
            continue  # equal margins cannot be told apart: same threshold, same misses
        if bdtr(at, len(hits), 1 - target) > delta:
            break
        best = (t, at)
    threshold, misses = best
    achieved = 1 - misses / len(hits) if hits else 0.0
    return Certificate(
        target=target, confidence=1 - delta, threshold=threshold, achieved=achieved, trials=len(hits), failures=misses
    )


def certify_precision(
    margins: Sequence[float], positive: Sequence[bool], *, target: float, delta: float = 0.05, at_least: int = 30
) -> Certificate:
    """The lowest threshold t at which precision >= target holds with confidence 1 - delta, at this set's
    prevalence.

    Walks t downward from the smallest flagged set that could be certified at all (no fewer than `at_least`
    images) and stops at the first failure.
    """
    ranked = sorted(zip(margins, positive, strict=True), key=lambda pair: -pair[0])
    start = max(at_least, math.ceil(math.log(delta) / math.log(target)))
    best: tuple[float | None, int, int] = (None, 0, 0)
    wrong, first = 0, True
    for n, (t, is_positive) in enumerate(ranked, start=1):
        wrong += not is_positive
        if n < start or (n < len(ranked) and ranked[n][0] == t):
            continue
        if bdtr(wrong, n, 1 - target) > delta:
            best = (None, n, wrong) if first else best
            break
        best, first = (t, n, wrong), False
    threshold, trials, failures = best
    achieved = 1 - failures / trials if trials else 0.0
    return Certificate(
        target=target,
        confidence=1 - delta,
        threshold=threshold,
        achieved=achieved,
        trials=trials,
        failures=failures,
    )


def thresholds_from(recall: Certificate, precision: Certificate) -> Thresholds:
    """Both walks as one pair. Where one margin meets both targets there is no review band: their midpoint."""
    if recall.threshold is None or precision.threshold is None or recall.threshold <= precision.threshold:
        return Thresholds(review=recall.threshold, flag=precision.threshold)
    both = (recall.threshold + precision.threshold) / 2
    return Thresholds(review=both, flag=both)
