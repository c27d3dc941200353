"""The effect of each precision on the pocket model's answers, speed and memory, against fp32 in one run.

Margins and scores on fresh generated images of both checks through their shipped adapters, merged into the weights (as
in the worker) and beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from bench.pocket import Measured, fresh, measure
from bench.report import Report, median_seconds_side_by_side
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import AdapterCard, read_card
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.scoring.prefill import PrefillScorer

SEED = 7_000_000  # the pocket model was not trained, calibrated or evaluated on these images
POOLS = ((128, 128, 200), (224, 224, 50))  # width, height, images; of each check
SPEED_IMAGES = 64  # of 128 x 128, in forwards of 16
FORWARD_IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to hold the weights in memory."""

    name: str
    precision: Precision
    merges: bool = True


REFERENCE = Variant(name="fp32", precision="fp32")
VARIANTS = (
    REFERENCE,
    Variant(name="fp32_unmerged", precision="fp32", merges=False),
    Variant(name="bf16", precision="bf16"),
    Variant(name="bf16_unmerged", precision="bf16", merges=False),
    Variant(name="int8", precision="int8"),
    Variant(name="nf4", precision="nf4"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A variant in memory with a scorer for each check; `weight_bytes` counts the base alone."""

    base: BaseModel
    weight_bytes: int
    scorers: dict[str, PrefillScorer]


def run() -> Report:
    images = {check: list(fresh(check, SEED, POOLS)) for check in QUESTIONS}
    cards = {check: read_card(pocket.adapter_folder(check)) for check in QUESTIONS}
    loaded = {variant.name: _load(variant) for variant in VARIANTS}
    measured = {name: _measure(held, images) for name, held in loaded.items()}
    with _one_thread():
        rows = [image for image, _, _ in images["overlay"]]
        seconds = _seconds([held.scorers["overlay"] for held in loaded.values()], rows)
        swaps = median_seconds_side_by_side(*(_swap(held) for held in loaded.values()))
    reference = measured[REFERENCE.name]
    figures: dict[str, Any] = {}
    for at, (name, held) in enumerate(loaded.items()):
        speed = {"images_per_s": SPEED_IMAGES / seconds[at], "vs_fp32": seconds[0] / seconds[at]}
        size = {"weight_mb": held.weight_bytes / 1e6, "swap_ms": 1000 * swaps[at]}
        figures[name] = _shift(measured[name], reference, cards) | speed | size
    n = sum(len(rows) for rows in images.values())
    return Report(name="precision", figures=figures, notes=(_note(n), _auroc(reference)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, as a worker does for each forward on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _note(n: int) -> str:
    return (
        f"{n} generated images of both checks; margins in logits, all differences against fp32 with merged adapters; "
        "speed on one core; swap_ms: from one adapter to the other"
    )


def _load(variant: Variant) -> Loaded:
    base = load_base("pocket", precision=variant.precision)
    base.merges = variant.merges
    size = _weight_bytes(base.network)
    scorers = {
        check: factory.scorer(base, question, pocket.adapter_folder(check)) for check, question in QUESTIONS.items()
    }
    return Loaded(base=base, weight_bytes=size, scorers=scorers)


def _weight_bytes(network: Any) -> int:
    """Return the size of the weights, with the constants of quantised ones."""
    states = [getattr(part, name, None) for part in network.parameters() for name in ("quant_state", "CB", "SCB")]
    constants = [value for state in states for value in _tensors(state)]
    tensors = {each.data_ptr(): each.nbytes for each in (*network.parameters(), *network.buffers(), *constants)}
    return sum(tensors.values())


def _tensors(state: Any) -> list[Any]:
    """Return the tensors of a bitsandbytes quantisation state, and of the state that quantises its constants."""
    if state is None or hasattr(state, "data_ptr"):
        return [] if state is None else [state]
    inner = getattr(state, "state2", None)
    return [value for value in vars(state).values() if hasattr(value, "data_ptr")] + _tensors(inner)


def _measure(held: Loaded, images: dict[str, list[tuple[Image.Image, int, str]]]) -> dict[str, Measured]:
    return {check: measure(scorer, images[check]) for check, scorer in held.scorers.items()}


def _shift(found: dict[str, Measured], reference: dict[str, Measured], cards: dict[str, AdapterCard]) -> dict[str, Any]:
    """Compare one variant's answers with the reference's, over the images of all checks."""
    moved = np.concatenate([np.subtract(found[check].margins, reference[check].margins) for check in cards])
    scores = [np.subtract(_scores(found[c].margins, cards[c]), _scores(reference[c].margins, cards[c])) for c in cards]
    changed = [
        now != before
        for check, card in cards.items()
        for now, before in zip(
            _decisions(found[check].margins, card), _decisions(reference[check].margins, card), strict=True
        )
    ]
    areas = [_area(found[check]) - _area(reference[check]) for check in cards]
    return {
        "max_margin_shift": float(np.abs(moved).max()),
        "mean_margin_shift": float(np.abs(moved).mean()),
        "p99_margin_shift": float(np.quantile(np.abs(moved), 0.99)),
        "max_score_shift": float(np.abs(np.concatenate(scores)).max()),
        "decisions_changed": sum(changed),
        "auroc_change": max(areas, key=abs),
    }


def _scores(margins: Sequence[float], card: AdapterCard) -> list[float]:
    assert card.calibrator is not None
    return [card.calibrator.probability(margin) for margin in margins]


def _decisions(margins: Sequence[float], card: AdapterCard) -> list[str]:
    assert card.thresholds is not None
    return [card.thresholds.decide(margin) for margin in margins]


def _area(measured: Measured) -> float:
    return float(roc_auc_score(measured.flagged_truth, measured.margins))


def _auroc(reference: dict[str, Measured]) -> str:
    return "AUROC in fp32: " + ", ".join(f"{check} {_area(found):.4f}" for check, found in reference.items())


def _seconds(scorers: Sequence[PrefillScorer], images: Sequence[Image.Image]) -> list[float]:
    """Return the seconds that each scorer takes for SPEED_IMAGES prepared images with its adapter active."""

    def work(scorer: PrefillScorer) -> Any:
        prepared = [scorer.prepare(image) for image in images[:SPEED_IMAGES]]

        def forwards() -> None:
            for start in range(0, SPEED_IMAGES, FORWARD_IMAGES):
                scorer.score(prepared[start : start + FORWARD_IMAGES])

        return forwards

    return median_seconds_side_by_side(*(work(scorer) for scorer in scorers))


def _swap(held: Loaded) -> Any:
    turns = cycle([scorer.identity.adapter_sha256 for scorer in held.scorers.values()])

    def swap() -> None:
        with held.base.using(next(turns)):
            pass

    return swap
