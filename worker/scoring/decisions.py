"""From a raw reading to label, score and decision. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.frame_result import UNREAD, FrameResult
from scanfleet.models.adapters.calibration import UNCALIBRATED, Calibrator, Thresholds
from scanfleet.models.adapters.canary import TOLERANCE
from scanfleet.models.types import Question, Reading
from scanfleet.stats.counts import MASS_FLOOR

# Quantising moves margins, so a calibrator fitted at full precision does not hold for a quantised scorer.
CALIBRATED_PRECISIONS = ("fp32", "bf16")
TOP_LABEL_FLOOR = 0.5  # of a check without flags
ROUNDING = 1e-6  # of a share of positives that was stored and read


@dataclass(frozen=True, kw_only=True)
class Decision:
    label: str
    score: float | None  # calibrated probability; None without a calibrator
    decision: str  # clear, review, flag
    reason: str | None = None  # UNREAD: it would be clear if the file had no other pictures
    doubted: str | None = None  # the decision that an image unlike the calibration's would have


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How the margins of one scorer are interpreted.

    calibrator None: there is no score. thresholds None as well: the sign of the margin decides.
    Thresholds are margins (`models.adapters.calibration.Thresholds`), so a new calibrator changes no decision.
    once: the policy for images without a crop in a check with a crop pass; None: this one.
    say_unlike: an image unlike those of the calibration is decided as others are; False: a person decides.
    prevalence: share of positives in the archive, which scores are stated for; None: that of the calibration images.
    """

    question: Question
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None
    once: Policy | None = None
    prevalence: float | None = None
    say_unlike: bool = False

    def after(self, crop: CropResult | None) -> Policy:
        """Return the policy for an image with this crop result; None: the gate asked for no crop."""
        cropped = crop is not None and crop.second is not None
        return self if cropped or self.once is None else self.once

    def decide(self, reading: Reading, *, complete: bool = True, frames: FrameResult | None = None) -> Decision:
        """Return the decision for a reading.

        complete False: a crop that was due is missing. Then a person decides, because calibrator and thresholds were
        fitted to all passes together.

        frames: of a file with several pictures. The reading is that of the picture with the highest margin, and the
        thresholds flag it as they flag a still. A maximum of several margins is higher than one margin, and nothing was
        calibrated or certified with such maxima: there is no score where several pictures were scored. The file is
        clear only if all its pictures were scored, and if no crop lowered the highest margin below another that is not
        clear. Where it would be clear otherwise, a person decides (UNREAD).
        """
        decision = self._by_margin(reading.margin) if self.question.flags else _by_top_label(reading.logits)
        if not complete or (decision == "clear" and reading.mass < MASS_FLOOR):
            decision = "review"
        reason = UNREAD if decision == "clear" and frames is not None and not self._covers(frames) else None
        if reason is not None:
            decision = "review"
        doubted = decision if reading.is_unlike and not self.say_unlike and decision != "review" else None
        fits = complete and (frames is None or frames.calibrated)  # what the calibrator was fitted to
        best = max(range(len(reading.logits)), key=reading.logits.__getitem__)
        score = self._probability(reading.margin) if fits else None
        return Decision(
            label=self.question.labels[best],
            score=score,
            decision="review" if doubted else decision,
            reason=reason,
            doubted=doubted,
        )

    def _probability(self, margin: float) -> float | None:
        return None if self.calibrator is None else self.calibrator.probability(margin, prevalence=self.prevalence)

    def _covers(self, frames: FrameResult) -> bool:
        """Return True if all pictures of a file were read, and those without a crop are clear without one."""
        first = self.once or self
        others = frames.next_margin if self.question.flags else None
        return frames.complete and (others is None or first._by_margin(others) == "clear")

    def saying(self, unlike: bool) -> Policy:
        """Return the policy that decides about unlike images too, and says no more than that they are (True)."""
        once = None if self.once is None else self.once.saying(unlike)
        return replace(self, say_unlike=unlike, once=once)

    def at_precision(self, precision: str) -> Policy:
        """Return the policy for a precision in which calibrator and thresholds may not have been fitted.

        Such a policy gives no score. Its thresholds move apart by the most that the margins of an adapter's canary may
        move in that precision: nothing is flagged or cleared that might not have been at full precision.
        """
        return self if precision in CALIBRATED_PRECISIONS else self.uncertified(TOLERANCE[precision])

    def uncertified(self, by: float) -> Policy:
        """Return the policy for margins that may differ by `by` logits from those it was fitted to.

        It gives no score, and its thresholds move apart by as much. A policy without an adapter's calibrator and
        thresholds stays as it is: the sign decides.
        """
        thresholds = self._as_thresholds()
        return self if thresholds is None else replace(self, calibrator=None, thresholds=thresholds.apart(by))

    def after_uncalibrated_crop(self, by: float, *, once: Policy) -> Policy:
        """Return the policy for crops that no calibration was fitted to. once: the policy for first passes.

        It gives no score, flags a margin that is `by` logits above the threshold, and never clears: a crop at the wrong
        place can move a margin by any amount, so a recall certified for first passes does not hold.

        A policy without an adapter's calibrator and thresholds stays as it is: the sign decides.
        """
        moved = self.uncertified(by)
        if moved.thresholds is None:
            return moved
        return replace(
            moved,
            thresholds=replace(moved.thresholds, review=None),
            once=replace(once, calibrator=None, thresholds=once._as_thresholds()),
        )

    def in_archive(self, prevalence: float | None, *, certified_at: float | None) -> Policy:
        """Return the policy for an archive with this share of positives; None: this one.

        Scores are stated for it. The flag threshold is left out if its precision was certified at a larger share
        (certified_at): in this archive it is lower. The review threshold stays: recall does not depend on the share.
        """
        if prevalence is None:
            return self
        thresholds = self._as_thresholds()
        if thresholds is not None and (certified_at is None or prevalence < certified_at * (1 - ROUNDING)):
            thresholds = replace(thresholds, flag=None)
        return replace(self, thresholds=thresholds, prevalence=prevalence)

    def _as_thresholds(self) -> Thresholds | None:
        """Return the thresholds. A calibrator alone splits at the margin whose probability is one half."""
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


def certified_at(metrics: Mapping[str, Any], calibrator: Calibrator | None) -> float | None:
    """Return the share of positives that an adapter's precision was certified at; None: unknown.

    metrics: of its card. Cards without that field were certified at the share of their labels, as the calibrator was.
    """
    certificate = metrics.get("precision_certificate")
    stored = certificate.get("prevalence") if isinstance(certificate, Mapping) else None
    if isinstance(stored, float):
        return stored
    return None if calibrator is None else calibrator.prevalence


def read_policy(question: Question, *, calibrator: dict[str, Any] | None, thresholds: dict[str, Any] | None) -> Policy:
    """Return the policy in the columns of an adapter. Raises TypeError or ValueError if they are malformed."""
    return Policy(
        question=question,
        calibrator=None if calibrator is None else Calibrator(**calibrator),
        thresholds=None if thresholds is None else Thresholds(**thresholds),
    )
