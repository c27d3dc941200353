"""Several looks at one image become one reading. Pure.

Looks are compared by their label logits less the logsumexp of these: the probabilities among the labels alone, so that
a look at which all logits are larger counts no more than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from models.crops.policy import Fuse
from models.scoring.margin import logsumexp, margin_of
from models.types import Question, Reading


def fused(first: Reading, second: Sequence[Reading], *, how: Fuse, question: Question) -> Reading:
    """The first look and what the rows of the second gave, as one reading.

    "mean": of the normalised label logits, and the margin that they give (of two labels: the mean of the margins).
    "max": the look with the largest margin. "second": the second look alone. Of several rows, such as tiles, the one
    with the largest margin is the second look. mass: the smallest of those looks whose logits are in the answer.
    visual_tokens: of all looks. Without a second look the first one stands.
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
    tokens = first.visual_tokens + sum(look.visual_tokens for look in second)
    return replace(answer, visual_tokens=tokens, attention=None)


def _largest(looks: Sequence[Reading]) -> Reading:
    """The earliest of equal ones; one that is not a number goes before all, so that it is never lost."""
    return max(looks, key=lambda look: (math.isnan(look.margin), look.margin))


def _mean(looks: Sequence[Reading], question: Question) -> Reading:
    logits = tuple(math.fsum(column) / len(looks) for column in zip(*map(_normalised, looks), strict=True))
    margin = margin_of(logits, question.labels, question.flags)
    return replace(looks[0], margin=margin, logits=logits, mass=min(look.mass for look in looks))


def _normalised(look: Reading) -> list[float]:
    total = logsumexp(look.logits)
    return [logit - total for logit in look.logits]
