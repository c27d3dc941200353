"""Several questions about the same images in one pass, against one question: processor time of the model alone.

One question in the order that the built-in model has, instruction first, is 1. At 448 px all questions share the
image's keys and values (image first); at 224 and 128 px a question is longer than an image, so they share the tower
under instructions that are computed once. Five with adapters of their own are activated LoRAs with random factors.

`cost_explain`: one question of 40 images at 448 px with an explanation of 48 tokens for every tenth, all at once,
against the same without. The built-in model writes no sentences: its tokens are counted, not read.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.report import Report, median_seconds_side_by_side
from scanfleet.checks.check import EXPLAIN_TOKENS
from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.families import PreparedImage
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.pocket.questions import OVERLAY
from scanfleet.models.pocket.scenes import CHECKS
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.scoring.together import Together
from scanfleet.models.types import Order

BATCHES = {448: (4, 4), 224: (4, 16), 128: (4, 32)}  # side in pixels -> batches, images of a batch
FLAG_SHARE = 10  # every tenth image is explained
N_EXPLAINED = 4  # in one forward
SEED = 8_100_000
THINGS = (
    "a logo", "a price", "a face", "a watermark", "a caption", "a brand name", "a phone number", "a web address",
    "a date", "a flag", "a weapon", "a bottle", "a child", "an animal", "a car", "food", "a screen", "a sign",
    "a signature", "a frame",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Processor time of each way, one question instruction first being 1; `spread`: widest margin difference."""

    single: float  # through the pass for several
    image_first: float  # one question
    together: dict[str, float]  # "5 image-first" -> cost
    alone: float  # five forwards, as before
    difference: float


def run() -> Report:
    torch.set_num_threads(1)
    base = load_base("pocket", precision="fp32", device="cpu")
    found = {side: measure(base, side, *sizes) for side, sizes in BATCHES.items()}
    big, middle, small = found[448], found[224], found[128]
    figures = {
        "cost_5": big.together["5 image-first"],
        "cost_20": big.together["20 image-first"],
        "cost_5_alora": big.together["5 alora"],
        "cost_5_224": middle.together["5 instruction-first"],
        "cost_5_128": small.together["5 instruction-first"],
        "single_vs_before": max(each.single for each in found.values()),
        "image_first_vs_instruction_first": {str(side): each.image_first for side, each in found.items()},
        "five_alone": {str(side): each.alone for side, each in found.items()},
        "cost_explain": cost_explain(base),
        "largest_difference": max(each.difference for each in found.values()),
        "by_side": {str(side): each.together for side, each in found.items()},
    }
    return Report(name="questions", figures=figures, notes=("processor time of one thread, base weights, fp32",))


def measure(base: BaseModel, side: int, n_batches: int, n: int) -> Costs:
    first: Order = "image-first"
    image_first, instruction_first = (scorers(base, order) for order in (first, "instruction-first"))
    images = [CHECKS["overlay"].draw(SEED, number, side, side).image for number in range(n_batches * n)]
    prepared = [image_first[0].prepare(image) for image in images]
    batches = [prepared[start : start + n] for start in range(0, len(prepared), n)]
    ways: dict[str, Callable[[], object]] = {
        "one": over(batches, instruction_first[0].score),
        "single": over(batches, Together(base=base, scorers=instruction_first[:1]).score),
        "image first": over(batches, image_first[0].score),
        "alone": over(batches, lambda batch: [scorer.score(batch) for scorer in instruction_first[:5]]),
    }
    alora = activated(base, image_first[:5])
    together = {"5 alora": Together(base=base, scorers=alora)}
    for name, asked in (("image-first", image_first), ("instruction-first", instruction_first)):
        for k in (5, 20):
            together[f"{k} {name}"] = Together(base=base, scorers=asked[:k])
    ways |= {name: over(batches, each.score) for name, each in together.items()}
    times = dict(zip(ways, median_seconds_side_by_side(*ways.values(), clock=time.process_time), strict=True))
    costs = {name: spent / times["one"] for name, spent in times.items()}
    return Costs(
        single=costs["single"],
        image_first=costs["image first"],
        together={name: costs[name] for name in together},
        alone=costs["alone"],
        difference=max(
            difference(together["20 image-first"], image_first, batches[0]),
            difference(together["20 instruction-first"], instruction_first, batches[0]),
            difference(together["5 alora"], alora, batches[0]),
        ),
    )


def cost_explain(base: BaseModel) -> float:
    scorer = scorers(base, "image-first")[0]
    explainer = factory.explainer(base, scorer.question, max_new_tokens=EXPLAIN_TOKENS)
    explainer._stops = frozenset()  # each text is as long as it may be
    images = [CHECKS["overlay"].draw(SEED, number, 448, 448).image for number in range(N_EXPLAINED * FLAG_SHARE)]
    prepared = [scorer.prepare(image) for image in images]
    plain = over([prepared[start : start + 4] for start in range(0, len(prepared), 4)], scorer.score)
    flagged = prepared[::FLAG_SHARE]
    jobs = [explainer.job(*each) for each in zip(flagged, scorer.score(flagged), strict=True)]
    without, explaining = median_seconds_side_by_side(plain, lambda: explainer.generate(jobs), clock=time.process_time)
    return (without + explaining) / without


def scorers(base: BaseModel, order: Order) -> list[PrefillScorer]:
    asked = (
        replace(
            OVERLAY, prompt=f"Does this image show {thing}, added on top of the picture or in the scene?", order=order
        )
        for thing in THINGS
    )
    return [factory.scorer(base, question) for question in asked]


def activated(base: BaseModel, asked: Sequence[PrefillScorer]) -> list[PrefillScorer]:
    """Return scorers of the same questions, each with an activated LoRA of its own on all language layers."""
    found = []
    for number, scorer in enumerate(asked):
        lora = LoraSettings(
            r=16,
            lora_alpha=32,
            target_modules=base.family.language_linear,
            alora_invocation_tokens=scorer.prompt.turn.after,
        )
        model = add_lora(base.network, lora, name="drawn")
        torch.manual_seed(SEED + number)
        for path, tensor in model.named_parameters():
            if "lora_" in path:
                torch.nn.init.normal_(tensor, std=0.02)
        revision = base.checkpoint.revision
        card = AdapterCard(name="drawn", question=scorer.question, base_model="pocket", base_revision=revision)
        with tempfile.TemporaryDirectory() as folder:
            save_lora(Path(folder), model, card=card, lora=lora, name="drawn")
            take_out(base.network)
            found.append(factory.scorer(base, scorer.question, Path(folder)))
    return found


def over(
    batches: Sequence[Sequence[PreparedImage]], score: Callable[[Sequence[PreparedImage]], object]
) -> Callable[[], object]:
    return lambda: [score(batch) for batch in batches]


def difference(together: Together, alone: Sequence[PrefillScorer], batch: Sequence[PreparedImage]) -> float:
    """Return the widest difference of a margin, in logits."""
    pairs = zip(together.score(batch), (scorer.score(batch) for scorer in alone), strict=True)
    return max(abs(a.margin - b.margin) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
