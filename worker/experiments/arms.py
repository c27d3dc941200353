"""The arms of an experiment: each answers the test images as log-odds, through the stack that serves scans."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop import CropSettings
from scanfleet.checks.experiment import Arm, Experiment
from scanfleet.config.settings import Settings
from scanfleet.errors import BadExperiment
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.crops.fusion import fused
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.wording import PLAIN
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.recipes import AUTO, Recipe, load_recipe, recipe_names, recipes_for
from scanfleet.models.training.data.types import Example
from scanfleet.models.training.fit import fit
from scanfleet.models.types import Question, Scorer
from scanfleet.worker.device.probe import UNPROBED_TOKENS
from scanfleet.worker.evaluation.readings import read_images
from scanfleet.worker.experiments.data import Split
from scanfleet.worker.scoring.crop_selection import policy_of
from scanfleet.worker.scoring.factory import question_of, scorer_of
from scanfleet.worker.scoring.model import LoadedModel, load_model
from scanfleet.worker.tuning.score_cache import ScoreCache
from scanfleet.worker.tuning.search_space import FirstPass

RECIPE_KEYS = ("recipe", "over")
POCKET = "pocket"
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """log_odds: key of a test image -> [labels]. costs: seconds of fitting and scoring, visual tokens an image."""

    log_odds: dict[str, list[float]]
    costs: dict[str, float]


class Arms:
    """Runs cells on one loaded base. place: keeps the adapters of cells, which later cells may build on."""

    def __init__(self, settings: Settings, experiment: Experiment, check: Check, split: Split, place: Path) -> None:
        self._settings, self._experiment, self._check = settings, experiment, check
        self._question: Question = question_of(check)
        self._split, self._place = split, place
        self._base: BaseModel | None = None

    @property
    def base(self) -> BaseModel:
        if self._base is None:
            settings = self._settings
            self._base = load_base(
                self._experiment.model,
                revision=settings.model_revision,
                precision=cast("Precision", settings.precision),
                device=settings.device,
            )
        return self._base

    def run(self, arm: Arm, *, seed: int, size: int) -> Answers:
        """Raises ModelInvalid, ModelUnavailable, BadSettings, ImportError where this machine cannot run the arm."""
        if arm.kind == "baseline":
            return self._baseline(arm, seed=seed, size=size)
        if arm.kind == "recipe":
            folder, seconds = self._adapter(arm, seed=seed, size=size)
            return self._score(LoadedModel(self.base).scorer(self._question, folder), fitting=seconds)
        if arm.kind == "crops":
            return self._crops(arm)
        return self._score(self._untrained(arm))

    def _untrained(self, arm: Arm) -> Scorer:
        check, options = self._check, arm.options
        if arm.kind == "zero-shot":
            check = check.model_copy(update={"order": options.get("order", check.order)})
        if arm.kind in ("steps", "once"):
            check = load_check(options["check"])
            if check.labels != self._check.labels:
                raise ModelInvalid(f"check {check.name} has other labels than {self._check.name}")
        if arm.kind == "quantised":
            base = load_base(self._experiment.model, precision=options["precision"], device=self._settings.device)
            return scorer_of(LoadedModel(base), check, None)
        if arm.kind == "endpoint":
            return scorer_of(load_model(self._settings.model_copy(update={"model": options["model"]})), check, None)
        return scorer_of(LoadedModel(self.base), check, None)

    def _crops(self, arm: Arm) -> Answers:
        """Read every test image with a crop pass; fuse both as the arm says."""
        started, test = time.monotonic(), self._split.test
        settings = CropSettings.model_validate({"when": "always", "max_extra": 100.0, **arm.options})
        scores = ScoreCache(
            model=LoadedModel(self.base),
            question=self._question,
            adapter=None,
            examples=test,
            sizes=[one.open(one.path).size for one in test],
            layers=settings.layers,
            token_budget=UNPROBED_TOKENS,
            watch=lambda _: None,
            threads=1,
        )
        first, every = FirstPass(words=PLAIN, max_pixels=self._question.max_pixels), range(len(test))
        second = scores.crop_pass(first, policy_of(self._check, settings), every)
        rows, tokens = [], 0
        for reading, result in zip(scores.first_pass(first, every), second, strict=True):
            rows.append(fused(reading, result.rows, how=settings.fuse, question=self._question))
            tokens += reading.visual_tokens + result.tokens + sum(row.visual_tokens for row in result.rows)
        return Answers(
            log_odds={one.key: list(row.logits) for one, row in zip(test, rows, strict=True)},
            costs={
                "fit_seconds": 0.0,
                "score_seconds": time.monotonic() - started,
                "visual_tokens": tokens / len(test),
            },
        )

    def _score(self, scorer: Scorer, *, fitting: float = 0.0) -> Answers:
        started = time.monotonic()
        read = read_images(scorer, self._split.test)
        if read.left_out:
            raise ModelInvalid(f"{len(read.left_out)} test images cannot be read: {next(iter(read.left_out.values()))}")
        taken = time.monotonic() - started
        tokens = sum(reading.visual_tokens for reading in read.readings.values()) / len(read.readings)
        return Answers(
            log_odds={key: list(reading.logits) for key, reading in read.readings.items()},
            costs={"fit_seconds": fitting, "score_seconds": taken, "visual_tokens": tokens},
        )

    def _adapter(self, arm: Arm, *, seed: int, size: int) -> tuple[Path, float]:
        """Return the folder of a cell's adapter, trained unless it is there, and the seconds that it took."""
        place = self._place / f"{arm.name}-{seed}-{size}"
        folder, started = place / "adapter", time.monotonic()
        if folder.exists():
            return folder, 0.0
        recipe, under = recipe_of(arm, self._experiment.model, self.base), None
        if over := arm.options.get("over"):
            below = next(one for one in self._experiment.arm if one.name == over)
            under, _ = self._adapter(below, seed=seed, size=size)
        train, held = self._split.part(size, seed=seed)
        base, question = self.base, replace(self._question, order=self._question.order or self.base.order)
        made = fit(base, question, train, held, recipe, seed=seed, work=place / "fit", on_progress=lambda _: None,
                   base_adapter=under)  # fmt: skip
        revision = base.checkpoint.revision
        card = AdapterCard(
            name=question.name, question=question, base_model=base.checkpoint.name, base_revision=revision
        )
        made.write(folder, card)
        return folder, time.monotonic() - started

    def _baseline(self, arm: Arm, *, seed: int, size: int) -> Answers:
        baselines = import_module("scanfleet.models.baselines")  # an optional part: the arm is left out without it

        options = dict(arm.options)
        labels, started = self._question.labels, time.monotonic()
        train, held = self._split.part(size, seed=seed)
        learnt = [*train, *held]  # it has no use for a held-out part, and every arm has the same labels
        names = [labels[one.label] for one in learnt]
        fitted = baselines.fit(
            options.pop("baseline"), _opened(learnt), names, names=labels, seed=seed, options=options
        )
        fitting, begun = time.monotonic() - started, time.monotonic()
        rows = np.asarray(fitted.log_odds(_opened(self._split.test)))
        return Answers(
            log_odds={one.key: [float(v) for v in row] for one, row in zip(self._split.test, rows, strict=True)},
            costs={"fit_seconds": fitting, "score_seconds": time.monotonic() - begun, "visual_tokens": 0.0},
        )


def _opened(examples: Sequence[Example]) -> list[Any]:
    return [example.open(example.path).convert("RGB") for example in examples]


def recipe_of(arm: Arm, model: str, base: BaseModel | None = None) -> Recipe:
    """Return an arm's recipe; for the built-in model its own form. Raises ModelInvalid."""
    options = {name: value for name, value in arm.options.items() if name not in RECIPE_KEYS}
    name = str(arm.options["recipe"])
    if name == AUTO and base is not None:
        return recipes_for(base, overrides=options)[0]
    own = {"full-lora": "pocket-full", AUTO: "pocket-lora"}.get(name, f"pocket-{name}")
    if model == POCKET and own in recipe_names():
        name = own
    return load_recipe("lora" if name == AUTO else name, overrides=options)


def check_arms(experiment: Experiment) -> None:
    """Raises BadExperiment for a recipe, or a field of one, that does not exist, and for an arm over none."""
    recipes = [arm for arm in experiment.arm if arm.kind == "recipe"]
    for at, arm in enumerate(recipes):
        try:
            recipe_of(arm, experiment.model)
        except ModelInvalid as error:
            raise BadExperiment(f"arm {arm.name}: options: {error}") from error
        over = arm.options.get("over")
        if over is not None and over not in [one.name for one in recipes[:at]]:
            raise BadExperiment(f"arm {arm.name}: options.over: no arm of kind recipe before it is named {over}")
