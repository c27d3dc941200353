"""Gain and cost of each kind of crop pass, beside the same tokens spent on a larger budget.

Measured on small planted targets, which a first pass cannot tell from look-alikes, and on large ones, which it can. The
check is the pocket model's razor check: a razor blade or a harmless plate of the same size in an X-ray picture of a
bag. Costs are the language model's visual tokens over those of the first pass alone; a backward pass counts as two
forwards. Also writes a page of pictures.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.crops.arms import FIRST, VOTERS, arms
from bench.crops.figures import RESAMPLES, accuracy, auroc, change, holds, recall_at, share, voted
from bench.crops.measure import CHECK, Measurements, Readers, batches, load_readers, measure, scored
from bench.crops.page import write_page, write_strips
from bench.report import Report
from scanfleet.models.crops.box_fusion import How
from scanfleet.models.scoring.prefill import PrefillScorer

N_PLANTED, N_LARGE = 300, 200
HOWS: tuple[How, ...] = ("nms", "wbf")
N_DOCS = 4  # pictures in the docs
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PAGE = Path("bench-crops") / "index.html"
HEADING = "Crop pass on small targets"
LEGEND = "Left: the image; middle: the map; right: the crop. Blue: the part; yellow: the region of the crop."


def run() -> Report:
    torch.set_num_threads(1)  # with so small a model a second thread costs more than it gains
    every = arms()
    readers = load_readers(every)
    small, large = measure(readers, every, "planted", N_PLANTED), measure(readers, every, "large", N_LARGE)
    write_page(PAGE, small.examples, heading=HEADING, text=LEGEND)
    write_strips(IMAGES / "crops.png", small.examples[:N_DOCS])
    gated = _figures(small, large, "gated")
    figures: dict[str, Any] = {
        "recall_gain_points": gated["recall_gain_points"],
        "token_cost_ratio": gated["token_cost_ratio"],
        "large_object_change_points": gated["large"]["points"],
        "localisation": gated["localisation"],
        "first_look": {"recall": recall_at(small.before, small.truth), "auroc": auroc(small.before, small.truth)},
        "first_look_large": {
            "accuracy": accuracy(large.before, large.truth),
            "auroc": auroc(large.before, large.truth),
        },
        "larger_budget_at_equal_cost": _one_budget(readers, small, ratio=gated["token_cost_ratio"]),
    }
    names = ["true_box", *(arm.name for arm in every), *readers.others]
    figures |= {name: _figures(small, large, name) for name in names}
    figures["fused_regions"] = {how: _voted(small, how) for how in HOWS}
    return Report(name="crops", figures=figures, notes=(_note(),))


def _note() -> str:
    return (
        f"{CHECK}, {N_PLANTED} planted and {N_LARGE} large pictures; recall at 5 % false positives; low and high: "
        f"paired bootstrap over pictures, {RESAMPLES} draws, 95 %; the page of pictures is {PAGE}"
    )


def _figures(small: Measurements, large: Measurements, name: str) -> dict[str, Any]:
    """Return the figures of one arm; for large targets the change of accuracy."""
    after = small.after(name)
    gain = change(recall_at, small.before, after, small.truth)
    found: dict[str, Any] = {
        "recall_gain_points": gain.points,
        "low": gain.low,
        "high": gain.high,
        "recall": recall_at(after, small.truth),
        "auroc": auroc(after, small.truth),
        "token_cost_ratio": small.cost(name),
    }
    if small.held.get(name):
        found["localisation"] = share(small.held[name])
    moved = change(accuracy, large.before, large.after(name), large.truth)
    return found | {"large": asdict(moved) | {"token_cost_ratio": large.cost(name)}}


def _voted(small: Measurements, how: How) -> float:
    """Return the localisation if the regions of several maps are fused as boxes."""
    hits = []
    for number, part in enumerate(small.parts):
        if part is not None:
            regions = [found[number] for name in VOTERS if number in (found := small.regions[name])]
            region = voted(regions, small.sizes[number], how)
            hits.append(region is not None and holds(region, part))
    return share(hits)


def _one_budget(readers: Readers, small: Measurements, *, ratio: float) -> dict[str, float]:
    """Measure one pass whose pixel budget costs as much as both passes."""
    question = replace(readers.scorer.question, max_pixels=round(FIRST * ratio))
    scorer = PrefillScorer(base=readers.base, question=question, identity=readers.scorer.identity)
    readings = [reading for some in batches("planted", N_PLANTED) for reading in scored(scorer, some)]
    after = np.array([reading.margin for reading in readings])
    gain = change(recall_at, small.before, after, small.truth)
    tokens = sum(reading.visual_tokens for reading in readings)
    return {
        "recall_gain_points": gain.points,
        "low": gain.low,
        "high": gain.high,
        "recall": recall_at(after, small.truth),
        "auroc": auroc(after, small.truth),
        "token_cost_ratio": tokens / sum(reading.visual_tokens for reading in small.first),
    }
