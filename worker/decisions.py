"""From a raw reading to what is written: label, score, decision. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from models.calibration import UNCALIBRATED, Calibrator, Thresholds
from models.canary import TOLERANCE
from models.types import Question, Reading

# Quantising moves margins, so that a calibrator fitted at full precision says nothing certain about a quantised scorer.
CALIBRATED_PRECISIONS = ("fp32", "bf16")
MASS_FLOOR = 0.9  # below it the model barely speaks in labels: prompt or adapter is suspect
TOP_LABEL_FLOOR = 0.5  # of a plain classification


@dataclass(frozen=True, kw_only=True)
class Decision:
    label: str
    score: float | None  # calibrated probability; None without a calibrator
    decision: str  # clear, review, flag


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How the margins of one scorer are read.

    calibrator None: there is no score. thresholds None as well: the sign of the margin decides.
    Thresholds are margins (`models.calibration.Thresholds`), so a change of calibrator moves no decision.
    """

    question: Question
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None

    def decide(self, reading: Reading, *, complete: bool = True) -> Decision:
        """complete False: a look that was due is missing, so a person decides, and what calibrator and thresholds say
        of all looks together they do not say of this one."""
        decision = self._by_margin(reading.margin) if self.question.flags else _by_top_label(reading.logits)
        if not complete or (decision == "clear" and reading.mass < MASS_FLOOR):
            decision = "review"
        best = max(range(len(reading.logits)), key=reading.logits.__getitem__)
        score = self.calibrator.probability(reading.margin) if self.calibrator is not None and complete else None
        return Decision(label=self.question.labels[best], score=score, decision=decision)

    def at_precision(self, precision: str) -> Policy:
        """What it comes to in a precision that calibrator and thresholds were not fitted in.

        There is no score then. The thresholds move apart by the most that the margins of an adapter's canary may move
        in that precision: nothing is flagged or cleared that might not have been at full precision.
        """
        return self if precision in CALIBRATED_PRECISIONS else self.uncertified(TOLERANCE[precision])

    def uncertified(self, by: float) -> Policy:
        """What is left of it where margins may differ by so many logits from those it was fitted to: no score, and
        thresholds as far apart. Without an adapter's there is nothing to lose: the sign decides as before.
        """
        if self.calibrator is None and self.thresholds is None:
            return self
        thresholds = self.thresholds
        if thresholds is None and self.calibrator is not None:
            even = -self.calibrator.b / self.calibrator.a  # the margin whose probability is one half
            thresholds = Thresholds(review=even, flag=even)
        assert thresholds is not None
        return replace(self, calibrator=None, thresholds=thresholds.apart(by))

    def _by_margin(self, margin: float) -> str:
        if self.thresholds is not None:
            return self.thresholds.decide(margin)
        if self.calibrator is not None:
            return "flag" if self.calibrator.probability(margin) >= 0.5 else "clear"
        return UNCALIBRATED.decide(margin)


def _by_top_label(logits: tuple[float, ...]) -> str:
    top = max(logits)
    share = 1.0 / math.fsum(math.exp(logit - top) for logit in logits)
    return "review" if share < TOP_LABEL_FLOOR else "clear"


def read_policy(question: Question, *, calibrator: dict[str, Any] | None, thresholds: dict[str, Any] | None) -> Policy:
    """A policy from the columns of an adapter. Raises TypeError or ValueError when they hold something else."""
    return Policy(
        question=question,
        calibrator=None if calibrator is None else Calibrator(**calibrator),
        thresholds=None if thresholds is None else Thresholds(**thresholds),
    )
