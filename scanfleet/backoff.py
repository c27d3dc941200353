"""How long to wait before the next try, and not all at the same moment."""

from __future__ import annotations

import random

MAX_BACKOFF_SECONDS = 60.0


def backoff_seconds(attempts: int) -> float:
    """1, 2, 4 ... 60 seconds.

    >>> [backoff_seconds(attempts) for attempts in (0, 1, 2, 3, 50)]
    [1.0, 1.0, 2.0, 4.0, 60.0]
    """
    doublings = min(max(attempts - 1, 0), 10)  # a large power would overflow
    return min(2.0**doublings, MAX_BACKOFF_SECONDS)


def jittered(seconds: float) -> float:
    """Between half of `seconds` and all of it: what failed together does not come back together.

    "Equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
