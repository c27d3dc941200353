"""From label logits to the margin, for scorers without an output head. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence


def margin_of(logits: Sequence[float], labels: Sequence[str], flags: Collection[str]) -> float:
    """Return the log-odds of the flagging labels against the others, in logits.

    Args:
        logits: `[labels]`.
        labels: `[labels]`, their names.
        flags: Flagging labels. Empty: the best label against the rest.
    """
    pairs = list(zip(logits, labels, strict=True))
    if flags:
        flagged = [logit for logit, label in pairs if label in flags]
        others = [logit for logit, label in pairs if label not in flags]
    else:
        *others, best = sorted(logits)
        flagged = [best]
    return logsumexp(flagged) - logsumexp(others)


def likeliest_flag(logits: Sequence[float], labels: Sequence[str], flags: Collection[str]) -> str:
    """Return the flagging label with the highest logit, of those in `margin_of`."""
    flagged = [(logit, label) for logit, label in zip(logits, labels, strict=True) if label in flags]
    return max(flagged, key=lambda pair: pair[0])[1]


def logsumexp(values: Iterable[float]) -> float:
    """Return the log of the sum of exponentials; -inf for no values, NaN where one of them is NaN."""
    # Called for every image on a handful of floats, where scipy.special.logsumexp takes 60 times as long.
    held = list(values)
    top = max(held, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in held))
