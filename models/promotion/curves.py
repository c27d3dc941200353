"""What a picture of the comparison is drawn from: reliability bins and margin histograms, as plain JSON."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from models.promotion.evidence import BINS
from models.promotion.types import Paired, Side

COLUMNS = 40  # of a histogram


def curves(paired: Paired) -> dict[str, dict[str, Any]]:
    """For each side reliability (None without a calibrator) and a histogram of its margins, apart by event."""
    sides = {"champion": paired.champion, "challenger": paired.challenger}
    if not len(paired):
        return {}
    return {
        name: {"reliability": _reliability(paired, side), "margins": _histogram(paired, side)}
        for name, side in sides.items()
    }


def _reliability(paired: Paired, side: Side) -> list[dict[str, float | int]] | None:
    """The bins of the calibration error: n, mean probability, frequency of what it speaks of."""
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
    """edges (c + 1) in logits; images (c) of which the event holds, and others. even: the side's own threshold."""
    event = paired.event(side)
    edges = np.histogram_bin_edges(side.margins, bins=COLUMNS)
    return {
        "edges": [float(edge) for edge in edges],
        "positive": [int(n) for n in np.histogram(side.margins[event], edges)[0]],
        "negative": [int(n) for n in np.histogram(side.margins[~event], edges)[0]],
        "even": side.even,
    }
