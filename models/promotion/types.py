"""Input and output of the gate. It knows no model, file or database: figures in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scanfleet.models.adapters.calibration import UNCALIBRATED, Calibrator, Certificate, Thresholds
from scanfleet.models.types import Question

Outcome = Literal["pass", "fail", "undecided", "skipped"]
Verdict = Literal["promote", "hold", "reject"]
# Why a side has no calibrator.
Misfit = Literal[
    "no labelled images",
    "too few labelled images",
    "one kind of label alone",
    "higher margins do not mean positive",
    "margins that are no numbers",
]
MODEL_MISFITS: tuple[Misfit, ...] = ("higher margins do not mean positive", "margins that are no numbers")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that a challenger must keep. Proportions, not percent."""

    level: float = 0.05
    loss: float = 0.01  # of average precision and recall, which a bound must exclude
    calibration: float = 0.01  # excess of Brier score or calibration error over the champion
    negative_flips: float = 0.01  # of the golden images
    flips_per_gain: float = 0.5  # negative flips that each positive one may cost
    flips_level: float = 0.01  # error of the test whose gain pays for any flips
    least_kind: int = 10  # clusters of each kind (positive, negative) that a bound needs
    least_recent: int = 100  # images; with fewer recent ones, all golden images are compared
    least_slice: int = 5  # images
    flag_ratio: tuple[float, float] = (0.8, 1.25)
    psi: float = 0.2  # beyond that of the golden images
    latency: float = 1.1  # times the champion's
    power: float = 0.8
    gain: float = 0.02  # worth having; the power statement refers to it


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two models on the golden images, in their order.

    Attributes:
        name: Name of the model, for the report.
        margins: `[images]` float64, in logits.
        answers: `[images]` int64, index of the label that it gives.
        calibrator: Of its margins; None for the reason in `misfit`.
        thresholds: Certified thresholds, if it has any.
        misfit: Why it has no calibrator.
        learnt: False for the base model alone, which has no operating point of its own.
        recall, precision: How its thresholds were certified; None where the card does not say.
        certified_on: Labelled images of the certification; None where the card does not say.
        cross_fitted: `[images]` float64 calibrated log-odds, each by a calibrator that did not see the image; None:
            `calibrator` saw none of them.
    """

    name: str
    margins: Floats
    answers: Ints
    calibrator: Calibrator | None
    thresholds: Thresholds | None = None
    misfit: Misfit | None = None
    learnt: bool = True
    recall: Certificate | None = None
    precision: Certificate | None = None
    certified_on: int | None = None
    cross_fitted: Floats | None = None

    @property
    def served(self) -> Thresholds:
        """The thresholds that a worker decides by; none for the base alone, even where some were fitted to compare."""
        if not self.learnt:
            return UNCALIBRATED
        return self.thresholds or Thresholds(review=self.even, flag=self.even)

    @property
    def even(self) -> float:
        """The margin at which the calibrated probability is one half; 0 without a calibrator."""
        return 0.0 if self.calibrator is None else -self.calibrator.b / self.calibrator.a

    @property
    def flagged(self) -> Bools:
        """`[images]` bool: flagged at even odds."""
        held = self.margins - self.even if self.cross_fitted is None else self.cross_fitted
        return np.asarray(held >= 0)

    def log_odds(self) -> Floats | None:
        """Return `[images]` float64 calibrated log-odds, or None without a calibrator."""
        if self.calibrator is None or self.cross_fitted is not None:
            return self.cross_fitted
        return np.asarray(self.calibrator.a * self.margins + self.calibrator.b, dtype=np.float64)

    def probabilities(self) -> Floats | None:
        """Return `[images]` float64 calibrated probabilities, or None without a calibrator."""
        log_odds = self.log_odds()
        return None if log_odds is None else np.asarray(expit(log_odds), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Conditions that need no statistics.

    Attributes:
        canary_problem: None: the canary passed, or there is none.
        canary_asked: False where an adapter has no canary.
        same_question: The adapter was trained for the check's question.
        same_base: It was trained on this revision of the base model.
        unreadable: Golden images for which the challenger gave no number.
        train_keys: Content hashes that the challenger was trained, calibrated or stopped on.
        train_clusters: Clusters of those images.
    """

    canary_problem: str | None = None
    canary_asked: bool = True
    same_question: bool = True
    same_base: bool = True
    unreadable: int = 0
    train_keys: frozenset[str] = frozenset()
    train_clusters: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """Both models on the same golden images.

    Attributes:
        question: The check's question.
        keys: `[images]` content hashes.
        truth: `[images]` int64, index of the true label.
        clusters: `[images]` names; near-duplicates share one.
        champion, challenger: The two models.
        recent: `[images]` bool, labelled after the champion's training.
        slices: Dimension (size, source, style) -> `[images]` values, None where an image has none. The true label is a
            dimension of its own.
        facts: Conditions that need no statistics.

    Raises:
        ValueError: A column has another length, or a margin is not finite.
    """

    question: Question
    keys: Sequence[str]
    truth: Ints
    clusters: Sequence[str]
    champion: Side
    challenger: Side
    recent: Bools
    slices: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    def __post_init__(self) -> None:
        n = len(self.keys)
        columns: list[Sequence[Any] | NDArray[Any]] = [self.truth, self.clusters, self.recent, *self.slices.values()]
        for side in (self.champion, self.challenger):
            columns += [side.margins, side.answers, *([] if side.cross_fitted is None else [side.cross_fitted])]
        if any(len(column) != n for column in columns):
            raise ValueError("both models must have scored the same images, with every column in their order")
        if not all(np.isfinite(side.margins).all() for side in (self.champion, self.challenger)):
            raise ValueError("margins must be finite: leave the other images out, and count them in the facts")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def flags(self) -> bool:
        """Whether the question flags; else it is a plain classification."""
        return bool(self.question.flags)

    @property
    def positive(self) -> Bools:
        """`[images]` bool: the true label flags."""
        flagging = [index for index, label in enumerate(self.question.labels) if label in self.question.flags]
        return np.isin(self.truth, flagging)

    def right(self, side: Side) -> Bools:
        """Return `[images]` bool: right about the flag at even odds or, where none flags, about the label."""
        return np.asarray(side.flagged == self.positive if self.flags else side.answers == self.truth)

    def right_at(self, side: Side, threshold: float) -> Bools:
        """Return `[images]` bool: a model is right at a threshold, a margin in logits."""
        if not self.flags:
            return np.asarray(side.answers == self.truth)
        return np.asarray((side.margins >= threshold) == self.positive)

    @property
    def reference(self) -> float:
        """The champion's margin at which false-positive rates and slices are compared.

        Its own even odds. The base alone has not learnt any: calibrated, it may flag nothing, and every model that
        flags would lose among the negatives. It is read where it flags as many golden images as the challenger.
        """
        if self.champion.learnt or not len(self):
            return self.champion.even
        n_flagged = int(self.challenger.flagged.sum())
        ranked = np.sort(self.champion.margins)[::-1]
        return float(ranked[n_flagged - 1]) if n_flagged else float(np.nextafter(ranked[0], np.inf))

    def event(self, side: Side) -> Bools:
        """Return `[images]` bool: the event of a calibrated probability, the flag or that the label is right."""
        return self.positive if self.flags else self.right(side)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadow:
    """Both models on the same unlabelled images of an archive.

    Attributes:
        champion_flags, challenger_flags: `[images]` bool.
        psi: Population stability index between their calibrated probabilities; None without calibrators.
        golden_psi: The same on the golden images: a better model is surer everywhere.
        seconds: (champion, challenger) for each round over the same images.
    """

    champion_flags: Bools
    challenger_flags: Bools
    psi: float | None
    golden_psi: float | None = None
    seconds: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The outcome of one condition, in words, with every figure behind it as plain JSON."""

    gate: str
    title: str
    outcome: Outcome
    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)
