"""Fuse several readings of one image into one. Pure functions.

Readings are compared by their label logits minus the logsumexp of these logits. These are log-probabilities among the
labels alone, so a reading with larger logits throughout counts no more than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scanfleet.models.crops.policy import Fuse
from scanfleet.models.scoring.margin import logsumexp, margin_of
from scanfleet.models.types import Question, Reading


def fused(first: Reading, second: Sequence[Reading], *, how: Fuse, question: Question) -> Reading:
    """Fuse the first reading and the readings of the crop pass.

    Of several rows, such as tiles, the one with the largest margin stands for the crop pass.

    Args:
        first: the reading of the first pass.
        second: the reading of each row of the crop pass; empty: the first reading stands.
        how: "mean": the mean of the normalised label logits, and the margin that follows from it (of two labels: the
            mean of the margins). "max": the reading with the largest margin. "second": the crop pass alone.
        question: its labels, and which of them flag.

    Returns:
        The answer. mass: the smallest of the readings whose logits are in it. visual_tokens: of all readings. unlike:
            of the first one, which shows the whole image as the calibration's did.
    """
    if not second:
        return first
    best = _largest(second)
    if how == "second":
        answer = best
    elif how == "max":
        answer = _largest((first, best))
    else:
        answer = _mean((first, best), question)
    tokens = first.visual_tokens + sum(reading.visual_tokens for reading in second)
    return replace(answer, visual_tokens=tokens, attention=None, unlike=first.unlike, is_unlike=first.is_unlike)


def _largest(readings: Sequence[Reading]) -> Reading:
    """Return the earliest reading with the largest margin; NaN counts as the largest, so that it is never lost."""
    return max(readings, key=lambda reading: (math.isnan(reading.margin), reading.margin))


def _mean(readings: Sequence[Reading], question: Question) -> Reading:
    logits = tuple(math.fsum(column) / len(readings) for column in zip(*map(_normalised, readings), strict=True))
    margin = margin_of(logits, question.labels, question.flags)
    return replace(readings[0], margin=margin, logits=logits, mass=min(reading.mass for reading in readings))


def _normalised(reading: Reading) -> list[float]:
    total = logsumexp(reading.logits)
    return [logit - total for logit in reading.logits]
