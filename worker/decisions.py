"""From a raw reading to what is written: label, score, decision. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from models.calibration import UNCALIBRATED, Calibrator, Thresholds
from models.types import Question, Reading

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

    calibrator None: there is no score, and the sign of the margin decides, unless thresholds say otherwise.
    Thresholds are margins (`models.calibration.Thresholds`), so a change of calibrator moves no decision.
    """

    question: Question
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None

    def decide(self, reading: Reading) -> Decision:
        decision = self._by_margin(reading.margin) if self.question.flags else _by_top_label(reading.logits)
        if decision == "clear" and reading.mass < MASS_FLOOR:
            decision = "review"
        best = max(range(len(reading.logits)), key=reading.logits.__getitem__)
        score = None if self.calibrator is None else self.calibrator.probability(reading.margin)
        return Decision(label=self.question.labels[best], score=score, decision=decision)

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
