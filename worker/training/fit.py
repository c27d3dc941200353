"""Stages fit, calibrate and canary: from examples to calibrated weights with a canary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanfleet.db.engine import reading
from scanfleet.db.training.adapters import get_adapter
from scanfleet.errors import TrainingFailed
from scanfleet.models.adapters.canary import LEAST_EFFECT, try_canary
from scanfleet.models.adapters.card import AdapterCard, read_card
from scanfleet.models.training.data.types import Example, Progress, Trained
from scanfleet.models.types import Order, Question, Reading
from scanfleet.worker.evaluation.canary import write_canary
from scanfleet.worker.evaluation.held_out import HELD_OUT
from scanfleet.worker.training.context import Context
from scanfleet.worker.training.snapshot import examples_of, is_shared_here, with_validation

if TYPE_CHECKING:
    from scanfleet.models.recipes import Recipe

FIT, ADAPTER = "fit", "adapter"
# In a training's overrides, beside the recipe's fields: the adapter under a head, and the one to train further, by id.
OVER, FROM = "over", "from"
FULL = ("full-lora", "pocket-full")  # recipes that train everything
NEAR_CHANCE = 0.9  # above this share of the loss of guessing, the next recipe is tried
AT_CHANCE = 0.98  # above this share nothing is learnt that the gate could judge


def fit(context: Context) -> dict[str, Any]:
    """Train, or resume from a checkpoint; by the next recipe where a loss stays near chance.

    Raises TrainingFailed, StopRequested.
    """
    recipes, start = _recipes(context)
    question = _stamped(context, recipes, start)
    learn, validation = with_validation(examples_of(context, "train"))
    tried: dict[str, float] = {}
    found: dict[str, Trained] = {}
    for recipe in recipes:
        found[recipe.name] = _train(context, question, recipe, learn, validation, start)
        tried[recipe.name] = loss = _loss_of(found[recipe.name])
        if share_of_chance(loss, context.question) <= NEAR_CHANCE:
            break
    trained = found[min(tried, key=lambda name: tried[name])]
    losses = {"tried": tried, "chance": math.log(len(context.question.labels)), "learnt_from": len(learn)}
    context.results[FIT] = losses  # of a training that fails here, too
    if len(recipes) > 1 and share_of_chance(min(tried.values()), context.question) > AT_CHANCE:
        raise TrainingFailed(_not_learnt(tried, context.question, len(learn)))
    checkpoint = context.base.checkpoint
    card = AdapterCard(
        name=f"{context.check.name}-{context.training.id}",
        question=question,
        base_model=checkpoint.name,
        base_revision=checkpoint.revision,
    )
    card = trained.write(context.work.path / ADAPTER, card)
    return {
        "weights_sha256": card.weights_sha256,
        "recipe": dict(card.recipe),
        "figures": dict(trained.figures),
        "history": [asdict(epoch) for epoch in trained.history],
        "stopped_by": len(validation),
        **losses,
    }


def _train(
    context: Context,
    question: Question,
    recipe: Recipe,
    learn: list[Example],
    validation: list[Example],
    start: Path | None,
) -> Trained:
    from scanfleet.models.training.fit import fit as train

    return train(
        context.base,
        question,
        learn,
        validation,
        recipe,
        seed=context.training.seed,
        work=context.work.path / FIT,
        on_progress=lambda progress: _report(context, progress),
        base_adapter=start,
    )


def _stamped(context: Context, recipes: Sequence[Recipe], start: Path | None) -> Question:
    """The question with the lower bound of pixels and the order that the adapter learns under, and keeps.

    What acts behind the image alone reads the image first, whatever the base learnt.
    """
    question = context.question
    if start is not None:
        question = read_card(start).asked(question)
    if question.min_pixels is None:
        question = replace(question, min_pixels=context.base.processor.reader.min_pixels)
    order: Order = "image-first" if any(recipe.activated for recipe in recipes) else context.base.order
    return replace(question, order=question.order or order)


def _recipes(context: Context) -> tuple[Sequence[Recipe], Path | None]:
    """The recipes to try in turn, and the folder of the adapter that they start from, if there is one."""
    from scanfleet.models.recipes import recipes_for

    overrides = dict(context.training.overrides)
    over, further = overrides.pop(OVER, None), overrides.pop(FROM, None)
    recipes = recipes_for(context.base, context.training.recipe, overrides=overrides)
    start = over if further is None else further
    if start is None:
        return recipes, None
    with reading(context.engine) as connection:
        adapter = get_adapter(connection, start)
    folder = context.folders.find(adapter)  # may fetch it: not while a transaction is open
    return (recipes if further is None else recipes[:1]), folder


def _loss_of(trained: Trained) -> float:
    """The loss of the best epoch on held-out images, or without any that of the last one; nats."""
    held_out = trained.figures.get("validation")
    return float(held_out) if held_out is not None else trained.history[-1].loss or math.inf


def share_of_chance(loss: float, question: Question) -> float:
    """A loss in nats as a share of that of guessing among the labels."""
    return loss / math.log(len(question.labels))


def _not_learnt(tried: Mapping[str, float], question: Question, n: int) -> str:
    losses = ", ".join(f"{loss:.2f} by recipe {name}" for name, loss in tried.items())
    chance = math.log(len(question.labels))
    return (
        f"these labels cannot be learnt with this base from {n} training images: the loss on held-out images is "
        f"{losses}, and {chance:.2f} by guessing; check the labels, label more, or take a larger model"
    )


def _report(context: Context, progress: Progress) -> None:
    context.progress.report(
        step=progress.step,
        steps=progress.steps,
        epoch=progress.epoch,
        epochs=progress.epochs,
        loss=progress.loss,
        validation=progress.validation,
        seconds_left=progress.seconds_left,
    )


def calibrate(context: Context) -> dict[str, Any]:
    """Fit calibrator and thresholds on held-out images, and summarise what these look like."""
    from scanfleet.worker.evaluation.calibrate import calibrated

    calibration, threshold, golden = (examples_of(context, split) for split in HELD_OUT)
    if not is_shared_here(context):
        golden = []
    found = calibrated(
        context.scorer(context.work.path / ADAPTER, keep_features=True),
        calibration,
        threshold,
        context.question,
        golden=golden,
        target_recall=context.check.target_recall,
        target_precision=context.check.target_precision,
        prevalence=context.check.prevalence,
        watch=context.progress.count,
    )
    return {
        "calibrator": None if found.calibrator is None else asdict(found.calibrator),
        "thresholds": None if found.thresholds is None else asdict(found.thresholds),
        "metrics": found.metrics | _likeness(context.work.path, [*calibration, *threshold, *golden], found.readings),
    }


def _likeness(folder: Path, examples: Sequence[Example], readings: Mapping[str, Reading]) -> dict[str, Any]:
    """Write the summary of these images' features, and return what the card's metrics say about it."""
    from scanfleet.models.adapters.likeness import METRIC, fitted

    kept = [
        (seen.features, each.cluster or each.key)
        for each in examples
        if (seen := readings.get(each.key)) is not None and seen.features is not None
    ]
    found = fitted([features for features, _ in kept], [name for _, name in kept])
    return {} if found is None else {METRIC: found.write(folder)}


def canary(context: Context) -> dict[str, Any]:
    """Store the margins of a few images, which the adapter must reproduce wherever it is loaded.

    Raises TrainingFailed if the adapter hardly changes the base model's margins.
    """
    examples = examples_of(context, "calibration") + examples_of(context, "threshold")
    scorer = context.scorer(context.work.path / ADAPTER)
    made = write_canary(context.work.path, examples, scorer)
    base = context.plain(scorer.question.order)
    found = try_canary(made, context.work.path, adapter=scorer, base=base)
    problem = found.problem()
    if problem is not None:
        context.results["canary"] = {"mean_effect": found.mean_effect, "least_effect": LEAST_EFFECT}
        raise TrainingFailed(f"{problem}{_training_figures(context.results.get(FIT, {}), context.question)}")
    return {"canary": made.model_dump(mode="json")}


def _training_figures(fitted: Mapping[str, Any], question: Question) -> str:
    """` (244 training images, loss 1.02 in the last epoch, 1.10 by guessing)`, or nothing if these are unknown."""
    losses = [epoch["loss"] for epoch in fitted.get("history", ()) if epoch.get("loss") is not None]
    if "learnt_from" not in fitted or not losses:
        return ""
    chance = math.log(len(question.labels))
    figures = (
        f"{fitted['learnt_from']} training images, loss {losses[-1]:.2f} in the last epoch, {chance:.2f} by guessing"
    )
    more = (
        "label more" if set(FULL) & set(fitted.get("tried", ())) else f"try --recipe {' or '.join(FULL)}, or label more"
    )
    return f" ({figures}); the same labels and recipe would give it again: {more}"
