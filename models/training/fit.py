"""Fine-tune a loaded base on labelled images by a recipe: `fit(...)` gives a `Trained`, which writes an adapter folder.

    loss = cross entropy of the answer's token over the whole vocabulary, at the position that scoring reads

Nothing else of the turn is learnt, and nothing is generated. The forward is the one of `models.prefill` under
gradients, so that what is trained is what will be served.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from models.adapters import AdapterCard, LoraSettings, write_adapter
from models.errors import ModelInvalid
from models.loading import BaseModel
from models.recipes import Recipe, check_base
from models.training.answers import Answers
from models.training.data import gather
from models.training.features import COMPUTED_BECAUSE, Computed, Kept, Source
from models.training.loop import Loop
from models.training.network import lent
from models.training.types import Example, Progress, Trained, Watcher
from models.types import Question


def fit(
    base: BaseModel,
    question: Question,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    *,
    seed: int,
    work: Path,
    watch: Watcher,
    over: Path | None = None,
) -> Trained:
    """Train on `train`, keep the epoch that is best on `validation` (the last one where that is empty).

    work: a folder for checkpoints and kept features; the same call goes on from what it holds, another one begins anew.
    watch: called at every step; raises to end the training after a checkpoint. over: an adapter folder, over whose
    LoRA a head is trained. The base answers nobody else meanwhile, and comes back as it was.

    Raises ModelInvalid for a recipe, base or examples that do not go together, and what opening an image raises.
    """
    check_base(recipe, base)
    _check(question, train, validation, recipe, over)
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{_fingerprint(base, question, train, validation, recipe, seed, over)}.state"
    return _fit_adapter(base, question, train, validation, recipe, seed=seed, file=file, watch=watch)


def _fit_adapter(
    base: BaseModel,
    question: Question,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    *,
    seed: int,
    file: Path,
    watch: Watcher,
) -> Trained:
    begun = time.monotonic()
    source, why = _source(base, recipe, file.parent / "features")

    def told() -> None:
        watch(_starting(time.monotonic() - begun))

    with lent(base, recipe, seed=seed) as network:
        with torch.inference_mode(False):
            data = gather(base, question, train, validation, recipe, source, seed=seed, tell=told)
            ready = time.monotonic()
            task = Answers(network, question, data, source, recipe)
            loop = Loop(task, data.plan, data.sizes, recipe, seed=seed, file=file, watch=watch)
            course = loop.run()
        figures: dict[str, float | int | str] = {
            "recipe": recipe.name,
            "seed": seed,
            "seconds": time.monotonic() - begun,
            "reading_seconds": ready - begun,
            "steps": course.step,
            "epochs": course.epoch,
            "best_epoch": course.best_epoch,
            "matched_language": network.matched.language,
            "matched_vision": network.matched.vision,
            "trained_whole": ", ".join(network.matched.whole),
            "parameters": sum(parameter.numel() for parameter in network.parameters),
            "features": why,
            **data.figures,
        }
        if isinstance(source, Kept):
            figures |= {"feature_bytes": source.bytes_on_disk, "features_computed": source.n_computed}
        if course.before is not None:
            figures |= {"validation_before": course.before, "validation": course.best_loss}
        return Trained(write=_writer(network.lora, course.best, recipe), history=course.progress(), figures=figures)


def _source(base: BaseModel, recipe: Recipe, folder: Path) -> tuple[Source, str]:
    """Where images come from, and in words whether the tower runs once or in every forward."""
    reason = COMPUTED_BECAUSE.get(base.family.model_type)
    if recipe.trains != "language":
        reason = "the recipe trains what the tower's output goes through"
    if recipe.mixing != "none":
        reason = "images are mixed"
    if not recipe.vision_cache:
        reason = "the recipe says so"
    if reason is None:
        return Kept(base, folder), "kept"
    return Computed(base), f"computed: {reason}"


def _writer(lora: LoraSettings, state: dict[str, torch.Tensor], recipe: Recipe) -> Any:
    weights = save_tensors({name: value.cpu().contiguous() for name, value in state.items()})

    def write(folder: Path, card: AdapterCard) -> AdapterCard:
        card = card.model_copy(update={"recipe": recipe.model_dump()})
        return write_adapter(folder, card=card, lora=lora, weights=weights)

    return write


def _check(
    question: Question, train: Sequence[Example], validation: Sequence[Example], recipe: Recipe, over: Path | None
) -> None:
    if question.steps:
        raise ModelInvalid(f"question {question.name!r} has steps, which cannot be trained: ask it in one prompt")
    if over is not None and recipe.trains != "head":
        raise ModelInvalid(f"recipe {recipe.name} starts from the base alone; only a head is trained over an adapter")
    seen = {example.label for example in train}
    if len(seen) < 2:
        raise ModelInvalid(f"{len(train)} training images have {len(seen)} of the labels: at least two are needed")
    wrong = [e.key for e in (*train, *validation) if not 0 <= e.label < len(question.labels)]
    if wrong:
        raise ModelInvalid(f"{len(wrong)} examples have no label of question {question.name!r}, first {wrong[0]}")
    both = {example.cluster for example in train} & {example.cluster for example in validation}
    if both:
        raise ModelInvalid(f"{len(both)} clusters lie in training and validation, first {min(both)}: split by cluster")


def _fingerprint(
    base: BaseModel,
    question: Question,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    seed: int,
    over: Path | None,
) -> str:
    """Of everything that a result depends on: a checkpoint of another training is never gone on from."""
    said = {**asdict(question), "flags": sorted(question.flags)}
    shown = [[(e.key, e.label, [asdict(box) for box in e.boxes]) for e in part] for part in (train, validation)]
    what = [base.checkpoint.revision, base.precision, said, shown, recipe.model_dump(), seed, str(over)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _starting(seconds: float) -> Progress:
    return Progress(step=0, steps=0, epoch=0, epochs=0, loss=None, validation=None, seconds=seconds, seconds_left=None)
