"""From margins to probabilities and decisions: Platt scaling (Platt 1999), and thresholds on the margin.

Fitting imports scikit-learn on demand. Thresholds are certified in `models.adapters.certificates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from scipy.special import expit, logit

from scanfleet.models.adapters.certificates import Certificate as Certificate
from scanfleet.models.errors import ModelInvalid

Decision = Literal["clear", "review", "flag"]


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """Platt scaling p = sigmoid(a * margin + b), with a > 0.

    It is valid for one combination of base revision, precision, adapter, prompt, pixel budget and crop mode only.

    Attributes:
        a: Slope, in log-odds per logit of margin.
        b: Intercept, in log-odds.
        n: Number of images that it was fitted on.
        prevalence: Share of positives among them, in (0, 1).

    Raises:
        ValueError: A value is outside its range or not finite.
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
        """Return the probability that an image is positive.

        Precision on a balanced set is not precision in an archive: state the prevalence beside the number.

        Args:
            margin: The image's margin, in logits.
            prevalence: Share of positives to calculate with, in (0, 1); None: that of the fitting set.

        Returns:
            A probability in [0, 1].

        Raises:
            ValueError: The prevalence is not between 0 and 1.
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

    They are margins, so that a change of prevalence or calibrator changes no decision. No unmet target is relaxed.

    Attributes:
        review: Margin below which an image is cleared; None: recall was not certified, and nothing is cleared.
        flag: Margin from which an image is flagged; None: precision was not certified, and nothing is flagged.

    Raises:
        ValueError: A threshold is not finite, or `review` lies above `flag`.
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
        """Return the decision for a margin in logits."""
        if self.flag is not None and margin >= self.flag:
            return "flag"
        if self.review is not None and margin < self.review:
            return "clear"
        return "review"

    def apart(self, by: float) -> Thresholds:
        """Return both thresholds moved `by` logits away from the middle, which widens the review band."""
        return Thresholds(
            review=None if self.review is None else self.review - by,
            flag=None if self.flag is None else self.flag + by,
        )


UNCALIBRATED = Thresholds(review=0.0, flag=0.0)  # the model's own preference, for a base model without labels


def fit_platt(margins: Sequence[float], positive: Sequence[bool]) -> Calibrator:
    """Fit Platt scaling with Platt's smoothed targets (Platt 1999).

    scikit-learn receives each fractional target as two weighted copies of the image.

    Args:
        margins: `[images]`, in logits.
        positive: `[images]`; both classes must occur.

    Raises:
        ModelInvalid: A class is missing, or higher margins do not mean positive.
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


def thresholds_from(recall: Certificate, precision: Certificate) -> Thresholds:
    """Combine both walks. Where one margin meets both targets there is no review band: both become their midpoint."""
    if recall.threshold is None or precision.threshold is None or recall.threshold <= precision.threshold:
        return Thresholds(review=recall.threshold, flag=precision.threshold)
    both = (recall.threshold + precision.threshold) / 2
    return Thresholds(review=both, flag=both)
