"""One tiny random checkpoint a model family: every module here that has a `checkpoint`.

A module is named as the family's model_type and has

    checkpoint(folder) -> Path
        saves a random model of the true architecture (2 layers, hidden 64) with tokenizer, chat template and image
        processor, as a released one is saved
    reference_inputs(base, prompt_text, image, question) -> dict
        the inputs of `base.network(**inputs)` for the whole prompt and one image, as transformers documents them: made
        by the family's own processor class where that works without torchvision
    LINEAR: int
        how many linear layers the language model has: those that LoRA adapts and that 4 and 8 bit quantise
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image

from scanfleet.models.inputs.prompts import Prompt
from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question, Reading


class Tiny(Protocol):
    """What a module here offers."""

    LINEAR: int

    def checkpoint(self, folder: Path) -> Path: ...

    def reference_inputs(
        self, base: BaseModel, prompt_text: str, image: Image.Image, question: Question
    ) -> dict[str, Any]: ...


def _find() -> dict[str, Tiny]:
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: cast(Tiny, module) for name, module in modules.items() if hasattr(module, "checkpoint")}


def widen(network: Any, *, seed: int = 0) -> None:
    """Draw every matrix, and every vector that was random, anew: wide enough that images score differently, which as
    built they do not, and the same in every run."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif len(parameter.unique()) > 1:
            torch.nn.init.normal_(parameter, std=parameter.numel() ** -0.5)


@torch.inference_mode()
def reference(tiny: Tiny, base: BaseModel, question: Question, image: Image.Image) -> Reading:
    """The whole prompt in one plain forward, no cache, every logit; the rest in plain Python."""
    question = replace(question, order=question.order or base.order)
    prompt = base.processor.prompt(question)
    inputs = tiny.reference_inputs(base, prompt.turn.text, image, question)
    cast_ = {name: _in_dtype(value, base.network.dtype) for name, value in inputs.items()}
    last = base.network(**cast_).logits[0, -1].double()
    visual = int((inputs["input_ids"] == base.processor.reader.image_token_id).sum())
    return read_last(last, prompt, question, visual)


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def read_last(last: torch.Tensor, prompt: Prompt, question: Question, visual_tokens: int) -> Reading:
    """The reading at the answer position, from every logit there (V,)."""
    labels = [_log_sum([float(last[token]) for token in code.token_ids]) for code in prompt.codes]
    mass = sum(float(last.softmax(-1)[token]) for code in prompt.codes for token in code.token_ids)
    named = list(zip(labels, question.labels, strict=True))
    flagged = _log_sum([logit for logit, name in named if name in question.flags])
    others = _log_sum([logit for logit, name in named if name not in question.flags])
    return Reading(margin=flagged - others, logits=tuple(labels), mass=mass, visual_tokens=visual_tokens)


def _log_sum(logits: Sequence[float]) -> float:
    return math.log(sum(map(math.exp, logits)))


TINY = _find()  # last: the modules that it reads use what stands above
