"""From a raw reading to what is written: label, score, decision. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from models.adapters.calibration import UNCALIBRATED, Calibrator, Thresholds
from models.adapters.canary import TOLERANCE
from models.types import Question, Reading
from scanfleet.checks.crop_result import CropResult

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
    Thresholds are margins (`models.adapters.calibration.Thresholds`), so a change of calibrator moves no decision.
    once: how images without a second look are read where others had one; None: the same way.
    """

    question: Question
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None
    once: Policy | None = None

    def after(self, crop: CropResult | None) -> Policy:
        """How an image is read, by what became of its second look; None: the gate did not ask for one."""
        looked = crop is not None and crop.second is not None
        return self if looked or self.once is None else self.once

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
        thresholds = self._as_thresholds()
        return self if thresholds is None else replace(self, calibrator=None, thresholds=thresholds.apart(by))

    def after_uncalibrated_crop(self, by: float, *, once: Policy) -> Policy:
        """What is left of it for second looks that nobody measured: no score, a flag where the margin is so many logits
        over the threshold, and never a clear. A region at the wrong place carries a margin as far as it likes, so that
        a recall certified for first looks says nothing of them. once: how first looks are read.

        A base without an adapter's word promises nothing: the sign decides as before.
        """
        moved = self.uncertified(by)
        if moved.thresholds is None:
            return moved
        return replace(
            moved,
            thresholds=replace(moved.thresholds, review=None),
            once=replace(once, calibrator=None, thresholds=once._as_thresholds()),
        )

    def _as_thresholds(self) -> Thresholds | None:
        """A calibrator alone splits at the margin whose probability is one half."""
        if self.thresholds is not None or self.calibrator is None:
            return self.thresholds
        even = -self.calibrator.b / self.calibrator.a
        return Thresholds(review=even, flag=even)

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
