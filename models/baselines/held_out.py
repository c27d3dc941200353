"""Pictures that a network does not learn from, so that they tell what its answers are worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from scanfleet.models.baselines.fitted import LogOdds

SHARE = 0.2  # of the pictures of each class
FEWEST = 5  # pictures of each class; with fewer, all are learnt from and nothing is calibrated

Places = NDArray[np.int64]


def hold_out(targets: Places, *, seed: int) -> tuple[Places, Places]:
    """Return the places of pictures to learn from, and of a fifth of each class that is held out; it may be none."""
    counts = np.bincount(targets)
    if counts[counts > 0].min() < FEWEST:
        return np.arange(len(targets)), np.array([], dtype=np.int64)
    rng = np.random.default_rng(seed)
    held = [
        rng.permutation(np.flatnonzero(targets == label))[: max(1, round(SHARE * counts[label]))]
        for label in np.flatnonzero(counts)
    ]
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(targets)), out), out


def temperature(logits: LogOdds, targets: Places) -> float:
    """Return what to divide `[pictures, names]` logits by for the least log-loss (Guo et al. 2017); 1 without pictures.

    It is 1 or more: where all of a few pictures are answered rightly, the least loss would be that of certainty.
    """
    if not len(targets):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(targets)), targets].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(0, 3), method="bounded").x))
