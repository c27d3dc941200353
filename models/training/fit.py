"""Fine-tune a loaded base on labelled images by a recipe: `fit` returns a `Trained`, which writes an adapter folder.

    loss = cross entropy of the answer's token over the whole vocabulary, at the position that scoring reads

No other token is learnt, and nothing is generated. The forward is that of `models.scoring.prefill` under gradients, so
that the trained computation is the served one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import save as save_tensors

from scanfleet.models.adapters.card import AdapterCard, read_adapter, write_adapter
from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.network.base import BaseModel
from scanfleet.models.recipes import Recipe, check_base
from scanfleet.models.scoring.head import write_head
from scanfleet.models.training.data.dataset import Data, collect_data
from scanfleet.models.training.data.features import NOT_CACHED, CachedSource, Fillable, PixelSource, Source
from scanfleet.models.training.data.request import TrainingRequest
from scanfleet.models.training.data.types import Example, Progress, ProgressCallback, Trained
from scanfleet.models.training.loop import FitState, Loop, Task
from scanfleet.models.training.tasks.head import HeadTask, frozen_scorer, hidden_cache, trained_head
from scanfleet.models.training.tasks.network import activated
from scanfleet.models.training.tasks.token import TokenTask
from scanfleet.models.types import Question

Figures = dict[str, float | int | str]


def fit(
    base: BaseModel,
    question: Question,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    *,
    seed: int,
    work: Path,
    on_progress: ProgressCallback,
    base_adapter: Path | None = None,
) -> Trained:
    """Train on `train`, and keep the epoch that is best on `validation`.

    The base serves no other scorer while a LoRA is trained, and is restored afterwards.

    Args:
        base: The loaded base model.
        question: A question without steps.
        train: Labelled images with at least two of the labels.
        validation: Held-out images; their clusters must not occur in `train`. Empty: the last epoch is kept.
        recipe: What is trained, and how.
        seed: On one thread, the same call with the same seed gives the same weights.
        work: Folder for checkpoints and cached features. The same call resumes from its content; another one starts
            anew.
        on_progress: Called at every step, and while images are read. An error from it ends the training after a
            checkpoint.
        base_adapter: Folder of an adapter that the training begins with: a head is trained over its LoRA, else its own
            modules are trained further. None: the base.

    Returns:
        The trained weights with history and figures.

    Raises:
        ModelInvalid: Recipe, base and examples do not fit together, or the loss diverges.
        Exception: Whatever `on_progress` or opening an image raises.
    """
    check_base(recipe, base)
    request = TrainingRequest(
        question=question, train=train, validation=validation, recipe=recipe, seed=seed, base_adapter=base_adapter
    )
    request.check()
    work.mkdir(parents=True, exist_ok=True)
    run = _Run(base=base, request=request, work=work, on_progress=on_progress, started=time.monotonic())
    return run.head() if recipe.trains == "head" else run.adapter()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    base: BaseModel
    request: TrainingRequest
    work: Path
    on_progress: ProgressCallback
    started: float

    def adapter(self) -> Trained:
        """Train a LoRA, or modules trained whole."""
        request, base = self.request, self.base
        source, description = self._source()
        start = None if request.base_adapter is None else read_adapter(request.base_adapter)
        invocation = base.processor.prompt(request.question).turn.after if request.recipe.activated else ()
        with activated(base, request.recipe, seed=request.seed, start=start, invocation=invocation) as network:
            data = self._collect(source)
            state, figures = self._train(TokenTask(network, request.question, data, source, request.recipe), data)
            matched = network.matched
        figures |= {
            "matched_language": matched.language,
            "matched_vision": matched.vision,
            "trained_whole": ", ".join(matched.whole),
            "features": description,
        }
        if isinstance(source, CachedSource):
            figures |= {"feature_bytes": source.cache.bytes_on_disk, "features_computed": source.cache.n_computed}
        weights = save_tensors({name: value.cpu().contiguous() for name, value in state.best.items()})
        return self._trained(state, figures, lora=network.lora, weights=weights)

    def head(self) -> Trained:
        """Train a head over the frozen base, or over an adapter's LoRA, which is then written with it."""
        request, base = self.request, self.base
        with frozen_scorer(base, request.question, request.base_adapter) as scorer:
            cache = hidden_cache(scorer, self.work / "features")
            data = self._collect(cache)
            state, figures = self._train(HeadTask(base, request.question, data, cache, request.recipe), data)
        figures |= {
            "features": "hidden states kept",
            "feature_bytes": cache.bytes_on_disk,
            "features_computed": cache.n_computed,
        }
        under = None if request.base_adapter is None else read_adapter(request.base_adapter)
        return self._trained(
            state,
            figures,
            lora=under.lora if under else None,
            weights=under.weights if under else None,
            head=write_head(trained_head(state.best)),
        )

    def _source(self) -> tuple[Source, str]:
        """Return the source of images, and in words whether the tower runs once or in every forward."""
        recipe = self.request.recipe
        reason = NOT_CACHED.get(self.base.family.model_type)
        if recipe.trains != "language" or self.request.base_adapter is not None:
            reason = "the recipe trains the modules that compute them"
        if recipe.mixing != "none":
            reason = "images are mixed differently each time"
        if not recipe.vision_cache:
            reason = "the recipe has vision_cache = false"
        if reason is None:
            return CachedSource(self.base, self.work / "features"), "kept"
        return PixelSource(self.base), f"computed in every forward: {reason}"

    def _collect(self, source: Fillable) -> Data:
        def on_read() -> None:
            seconds = time.monotonic() - self.started
            nothing_yet = {"step": 0, "steps": 0, "epoch": 0, "epochs": 0, "loss": None, "validation": None}
            self.on_progress(Progress(**nothing_yet, seconds=seconds, seconds_left=None))  # type: ignore[arg-type]

        return collect_data(self.base, self.request, source, on_read=on_read)

    def _train(self, task: Task, data: Data) -> tuple[FitState, Figures]:
        request = self.request
        reading = time.monotonic() - self.started
        file = self.work / f"{request.fingerprint(self.base)}.state"
        loop = Loop(
            task, data.plan, data.sizes, request.recipe, seed=request.seed, file=file, on_progress=self.on_progress
        )
        state = loop.run()
        figures: Figures = {
            "recipe": request.recipe.name,
            "seed": request.seed,
            "seconds": round(reading + state.seconds, 3),
            "reading_seconds": round(reading, 3),
            "steps": state.step,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "parameters": sum(parameter.numel() for parameter in task.parameters),
            **data.figures,
        }
        if state.before is not None:
            figures |= {"validation_before": state.before, "validation": state.best_loss}
        return state, figures

    def _trained(
        self,
        state: FitState,
        figures: Figures,
        *,
        lora: LoraSettings | None = None,
        weights: bytes | None = None,
        head: bytes | None = None,
    ) -> Trained:
        write = partial(_write, recipe=self.request.recipe, lora=lora, weights=weights, head=head)
        return Trained(write=write, history=state.progress(), figures=figures)


def _write(
    folder: Path,
    card: AdapterCard,
    *,
    recipe: Recipe,
    lora: LoraSettings | None,
    weights: bytes | None,
    head: bytes | None,
) -> AdapterCard:
    card = card.model_copy(update={"recipe": {**recipe.model_dump(), **card.recipe}})
    return write_adapter(folder, card=card, lora=lora, weights=weights, head=head)
