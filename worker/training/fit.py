"""Stages fit, calibrate and canary: from examples to calibrated weights with a canary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.adapters.canary import try_canary
from models.adapters.card import AdapterCard
from models.training.data.types import Progress
from scanfleet.db.engine import reading
from scanfleet.db.training.adapters import get_adapter
from scanfleet.errors import TrainingFailed
from worker.evaluation.canary import write_canary
from worker.training.context import Context
from worker.training.snapshot import examples_of, with_validation

if TYPE_CHECKING:
    from models.recipes import Recipe

FIT, ADAPTER = "fit", "adapter"
OVER = "over"  # in a training's overrides, beside the recipe's fields: the id of the adapter that a head is trained on


def fit(context: Context) -> dict[str, Any]:
    """Train, or resume from a checkpoint. Raises TrainingFailed, StopRequested."""
    from models.training.fit import fit as train

    recipe, over = _recipe(context)
    learn, validation = with_validation(examples_of(context, "train"))
    trained = train(
        context.base,
        context.question,
        learn,
        validation,
        recipe,
        seed=context.training.seed,
        work=context.work.path / FIT,
        on_progress=lambda progress: _report(context, progress),
        base_adapter=over,
    )
    checkpoint = context.base.checkpoint
    card = AdapterCard(
        name=f"{context.check.name}-{context.training.id}",
        question=context.question,
        base_model=checkpoint.name,
        base_revision=checkpoint.revision,
    )
    card = trained.write(context.work.path / ADAPTER, card)
    return {
        "weights_sha256": card.weights_sha256,
        "recipe": dict(card.recipe),
        "figures": dict(trained.figures),
        "history": [asdict(epoch) for epoch in trained.history],
        "learnt_from": len(learn),
        "stopped_by": len(validation),
    }


def _recipe(context: Context) -> tuple[Recipe, Path | None]:
    """The recipe, and the folder of the adapter that it starts from, if there is one."""
    from models.recipes import recipe_for

    overrides = dict(context.training.overrides)
    over = overrides.pop(OVER, None)
    recipe = recipe_for(context.base, context.training.recipe, overrides=overrides)
    if over is None:
        return recipe, None
    with reading(context.engine) as connection:
        adapter = get_adapter(connection, over)
    return recipe, context.folders.find(adapter)  # may fetch it: not while a transaction is open


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
    """Fit calibrator and thresholds, each on a split of its own."""
    from worker.evaluation.calibrate import calibrated

    found = calibrated(
        context.scorer(context.work.path / ADAPTER),
        examples_of(context, "calibration"),
        examples_of(context, "threshold"),
        context.question,
        target_recall=context.check.target_recall,
        target_precision=context.check.target_precision,
        prevalence=context.check.prevalence,
        watch=context.progress.count,
    )
    return {
        "calibrator": None if found.calibrator is None else asdict(found.calibrator),
        "thresholds": None if found.thresholds is None else asdict(found.thresholds),
        "metrics": dict(found.metrics),
    }


def canary(context: Context) -> dict[str, Any]:
    """Store the margins of a few images, which the adapter must reproduce wherever it is loaded.

    Raises TrainingFailed if the adapter hardly changes the base model's margins.
    """
    examples = examples_of(context, "calibration") + examples_of(context, "threshold")
    scorer = context.scorer(context.work.path / ADAPTER)
    made = write_canary(context.work.path, examples, scorer)
    base = context.scorer()
    problem = try_canary(made, context.work.path, adapter=scorer, base=base).problem()
    if problem is not None:
        raise TrainingFailed(f"{problem}{_training_figures(context.results.get(FIT, {}))}")
    return {"canary": made.model_dump(mode="json")}


def _training_figures(fitted: Mapping[str, Any]) -> str:
    """` (244 training images, loss 0.70 in the last epoch)`, or nothing if these are unknown."""
    losses = [epoch["loss"] for epoch in fitted.get("history", ()) if epoch.get("loss") is not None]
    if "learnt_from" not in fitted or not losses:
        return ""
    return f" ({fitted['learnt_from']} training images, loss {losses[-1]:.2f} in the last epoch)"
