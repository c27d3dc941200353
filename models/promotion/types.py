"""What the gate is given and what it says. Knows no model, no file and no database: figures in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.adapters.calibration import UNCALIBRATED, Calibrator, Certificate, Thresholds
from models.types import Question

Outcome = Literal["pass", "fail", "undecided", "skipped"]
Verdict = Literal["promote", "hold", "reject"]
# Why a side has no calibrator.
Misfit = Literal[
    "no labelled images",
    "one kind of label alone",
    "higher margins do not mean positive",
    "margins that are no numbers",
]
FAULTS_OF_THE_MODEL: tuple[Misfit, ...] = ("higher margins do not mean positive", "margins that are no numbers")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a challenger must keep to. Proportions, not percent; `level` is the error of each one-sided bound."""

    level: float = 0.05
    loss: float = 0.01  # of average precision and of recall, that a bound must exclude
    calibration: float = 0.01  # more Brier score or calibration error than the champion
    negative_flips: float = 0.01  # of the golden images
    flips_per_gain: float = 0.5  # negative flips for each positive one that a better model may cost
    least_kind: int = 10  # clusters of each kind (positive, negative) below which no bound is worth its name
    least_recent: int = 100  # images: a smaller recent slice proves little, all golden images are asked then
    least_slice: int = 5  # images
    flag_ratio: tuple[float, float] = (0.8, 1.25)
    psi: float = 0.2
    latency: float = 1.1  # times the champion's
    power: float = 0.8
    gain: float = 0.02  # worth seeing: what the power statement counts with


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two models on the golden images, in their order.

    margins: (n,) logits. answers: (n,) index of the label it gives. calibrator None: `misfit` says why.
    learnt: False for the base model alone, which has no operating point of its own. recall, precision: how its
    thresholds were certified, on `certified_on` labelled images; None where nobody knows.
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

    @property
    def served(self) -> Thresholds:
        """The thresholds a worker decides by: the base alone has none, whatever was fitted for a comparison."""
        if not self.learnt:
            return UNCALIBRATED
        return self.thresholds or Thresholds(review=self.even, flag=self.even)

    @property
    def even(self) -> float:
        """The margin whose calibrated probability is one half; without a calibrator the model's own preference."""
        return 0.0 if self.calibrator is None else -self.calibrator.b / self.calibrator.a

    def probabilities(self) -> Floats | None:
        """(n,) calibrated probabilities, or None."""
        if self.calibrator is None:
            return None
        return np.asarray(expit(self.calibrator.a * self.margins + self.calibrator.b), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be said without a figure. None as a problem: none was found.

    canary_asked: False where an adapter has no canary. unreadable: golden images that the challenger gave no number.
    """

    canary_problem: str | None = None
    canary_asked: bool = True
    same_question: bool = True
    same_base: bool = True
    unreadable: int = 0
    train_keys: frozenset[str] = frozenset()  # content hashes the challenger was trained, calibrated or stopped on
    train_clusters: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """Both models on the same golden images, n of them.

    keys: content hashes. truth: (n,) index of the true label. clusters: one name an image; look-alikes share one.
    recent: (n,) labelled after the champion's training. slices: dimension (size, source, style) -> (n,) its value for
    each image, None where it has none; the true label is a dimension by itself.
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
            columns += [side.margins, side.answers]
        if any(len(column) != n for column in columns):
            raise ValueError("both models must have been asked of the same images, each column in their order")
        if not all(np.isfinite(side.margins).all() for side in (self.champion, self.challenger)):
            raise ValueError("margins must be numbers: leave images out that have none, and count them in the facts")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def flags(self) -> bool:
        """Whether the question flags; else it is a plain classification."""
        return bool(self.question.flags)

    @property
    def positive(self) -> Bools:
        """(n,) images whose true label flags."""
        flagging = [index for index, label in enumerate(self.question.labels) if label in self.question.flags]
        return np.isin(self.truth, flagging)

    def right(self, side: Side) -> Bools:
        """(n,) whether a model is right: about the flag at its own even odds, or about the label where none flags."""
        return self.right_at(side, side.even)

    def right_at(self, side: Side, threshold: float) -> Bools:
        """(n,) the same at another threshold, a margin."""
        if not self.flags:
            return np.asarray(side.answers == self.truth)
        return np.asarray((side.margins >= threshold) == self.positive)

    @property
    def reference(self) -> float:
        """The champion's threshold where the two are compared at one rate of false alarms, and slice by slice.

        Its own even odds. The base alone never learnt any: calibrated, it may well flag nothing, so that whoever flags
        at all would lose among the negatives. It is read where it flags as many golden images as the challenger.
        """
        if self.champion.learnt or not len(self):
            return self.champion.even
        n_flagged = int((self.challenger.margins >= self.challenger.even).sum())
        ranked = np.sort(self.champion.margins)[::-1]
        return float(ranked[n_flagged - 1]) if n_flagged else float(np.nextafter(ranked[0], np.inf))

    def event(self, side: Side) -> Bools:
        """(n,) what a calibrated probability of this model speaks of: the flag, or that its label is right."""
        return self.positive if self.flags else self.right(side)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadow:
    """Both models on the same unlabelled images of an archive.

    flags: (m,) whether each model would flag. psi: between their calibrated probabilities. seconds: pairs
    (champion, challenger), one a round over the same images.
    """

    champion_flags: Bools
    challenger_flags: Bools
    psi: float | None
    seconds: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One condition: what came of it, in words, and every figure behind it as plain JSON."""

    gate: str
    title: str
    outcome: Outcome
    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)
