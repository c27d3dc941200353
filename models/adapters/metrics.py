"""Quality of probabilities and proportions: Brier, NLL, calibration error, Wilson intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import ndtri


def wilson(successes: float, trials: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Wilson 1927 score interval of a proportion.

    Args:
        successes: At most `trials`.
        trials: Number of images, or a sum of their weights.
        confidence: In (0, 1).

    Returns:
        (low, high) in [0, 1]; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    share, z = successes / trials, float(ndtri((1 + confidence) / 2))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0


def brier(probabilities: Sequence[float], positive: Sequence[bool]) -> float:
    """Return the mean squared error of the probabilities; 0 is perfect.

    Args:
        probabilities: `[images]`, in [0, 1].
        positive: `[images]`; one class alone is accepted.
    """
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(positive, probabilities))


def negative_log_likelihood(probabilities: Sequence[float], positive: Sequence[bool]) -> float:
    """Return the mean negative log-likelihood in nats.

    Args:
        probabilities: `[images]`, in [0, 1]; they are clipped to 1e-12 from both ends.
        positive: `[images]`; one class alone is accepted.
    """
    from sklearn.metrics import log_loss

    return float(log_loss(positive, np.clip(probabilities, 1e-12, 1 - 1e-12), labels=[False, True]))


def calibration_error(probabilities: Sequence[float], positive: Sequence[bool], *, bins: int = 15) -> float:
    """Return the expected calibration error: mean |confidence - frequency|, weighted by bin size.

    Args:
        probabilities: `[images]`, in [0, 1].
        positive: `[images]`.
        bins: Number of bins, of equal mass.
    """
    pairs = sorted(zip(probabilities, positive, strict=True))
    total = len(pairs)
    edges = [round(i * total / bins) for i in range(bins + 1)]
    groups = [pairs[a:b] for a, b in pairwise(edges) if b > a]
    return math.fsum(abs(math.fsum(p - y for p, y in group)) for group in groups) / total


def probability_figures(probabilities: Sequence[float], positive: Sequence[bool]) -> dict[str, float]:
    """Return Brier score, log-likelihood and calibration error of `[images]` probabilities in [0, 1] and outcomes."""
    return {
        "brier": brier(probabilities, positive),
        "nll": negative_log_likelihood(probabilities, positive),
        "ece": calibration_error(probabilities, positive),
    }


def ranking_figures(margins: Sequence[float], positive: Sequence[bool]) -> dict[str, float | None]:
    """Return area under the ROC curve and average precision, as scikit-learn defines them.

    Args:
        margins: `[images]`, in logits.
        positive: `[images]`.

    Returns:
        Both figures in [0, 1]; None where one class is missing.
    """
    if all(positive) or not any(positive):
        return {"auroc": None, "average_precision": None}
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auroc": float(roc_auc_score(positive, margins)),
        "average_precision": float(average_precision_score(positive, margins)),
    }
