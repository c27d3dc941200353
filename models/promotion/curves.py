"""Data for the plots of the comparison: reliability bins and margin histograms, as plain JSON."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from scanfleet.models.promotion.evidence import BINS
from scanfleet.models.promotion.types import Paired, Side

COLUMNS = 40  # of a histogram


def curves(paired: Paired) -> dict[str, dict[str, Any]]:
    """Return reliability bins (None without a calibrator) and a margin histogram by outcome, for each model.

    The outcome is the true flag or, in a plain classification, whether the model's label is right.
    """
    sides = {"champion": paired.champion, "challenger": paired.challenger}
    if not len(paired):
        return {}
    return {
        name: {"reliability": _reliability(paired, side), "margins": _histogram(paired, side)}
        for name, side in sides.items()
    }


def _reliability(paired: Paired, side: Side) -> list[dict[str, float | int]] | None:
    """Return the bins of the calibration error: n, mean probability, frequency of the outcome."""
    probabilities = side.probabilities()
    if probabilities is None:
        return None
    order, event = np.argsort(probabilities, kind="stable"), paired.event(side)
    edges = [round(i * len(order) / BINS) for i in range(BINS + 1)]
    return [
        {
            "n": end - start,
            "probability": float(probabilities[order[start:end]].mean()),
            "frequency": float(event[order[start:end]].mean()),
        }
        for start, end in pairwise(edges)
        if end > start
    ]


def _histogram(paired: Paired, side: Side) -> dict[str, Any]:
    """Return the histogram of a model's margins.

    edges: `[columns + 1]` in logits. positive, negative: `[columns]` images with and without the outcome.
    """
    event = paired.event(side)
    edges = np.histogram_bin_edges(side.margins, bins=COLUMNS)
    return {
        "edges": [float(edge) for edge in edges],
        "positive": [int(n) for n in np.histogram(side.margins[event], edges)[0]],
        "negative": [int(n) for n in np.histogram(side.margins[~event], edges)[0]],
        "even": side.even,
    }
