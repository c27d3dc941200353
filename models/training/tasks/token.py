"""The task of every recipe but `head`: the answer's token, after instruction and image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext

import torch

from scanfleet.models.recipes import Recipe
from scanfleet.models.training.data.dataset import Data
from scanfleet.models.training.data.features import Source
from scanfleet.models.training.data.mixing import Mix
from scanfleet.models.training.data.sampler import SampleId, Step
from scanfleet.models.training.data.samples import Samples
from scanfleet.models.training.tasks.forward import (
    Instruction,
    answer_loss,
    last_hidden,
    last_hidden_behind,
    recomputed,
)
from scanfleet.models.training.tasks.network import ActiveLora
from scanfleet.models.types import Question

VALIDATION_BATCH = 16  # images per forward without gradients


class TokenTask:
    """Implements `models.training.loop.Task` for a base with active LoRA modules.

    Args:
        lora: The trained modules.
        question: Its label tokens are the targets.
        data: Prepared examples.
        source: Inputs of the forwards.
        recipe: Mixing and gradient checkpointing.
    """

    def __init__(self, lora: ActiveLora, question: Question, data: Data, source: Source, recipe: Recipe) -> None:
        self._lora, self._data, self._source, self._recipe = lora, data, source, recipe
        base = lora.base
        prompt = base.processor.prompt(question)
        self._turn = prompt.turn
        self._answers = torch.tensor([code.answer_id for code in prompt.codes], device=base.device)
        self._weight = base.network.get_output_embeddings().weight.detach()

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The trained tensors by their names in a file: LoRA A `[rank, in]`, B `[out, rank]`."""
        return self._lora.state

    @property
    def parameters(self) -> Sequence[torch.nn.Parameter]:
        return self._lora.parameters

    def learn(self, step: Step) -> float:
        """Run one optimiser step's forwards and leave the gradient; returns the mean loss in nats."""
        self._lora.dropout(True)
        instruction = self._instruction()
        total = 0.0
        for sample_ids in step:
            mix = self._mix(sample_ids)
            with ExitStack() as stack:
                if self._recipe.gradient_checkpointing:
                    stack.enter_context(recomputed(self._lora.layers))
                losses = self._losses(self._data.train, sample_ids, instruction, mix)
            mean = losses.mean() / len(step)
            mean.backward()  # type: ignore[no-untyped-call]
            total += mean.item()
        instruction.backward()
        return total

    @torch.no_grad()
    def validation(self) -> float | None:
        """Return the loss in nats on the held-out examples, with equal weight for every class; None without any."""
        sizes = self._data.validation_sizes
        if not sizes:
            return None
        self._lora.dropout(False)
        instruction = self._instruction()
        alike = sorted(sizes, key=lambda sample_id: sizes[sample_id])
        by_label: dict[int, list[float]] = defaultdict(list)
        for start in range(0, len(alike), VALIDATION_BATCH):
            sample_ids = alike[start : start + VALIDATION_BATCH]
            losses = self._losses(self._data.validation, sample_ids, instruction).tolist()
            for (i, _), loss in zip(sample_ids, losses, strict=True):
                by_label[self._data.validation.examples[i].label].append(loss)
        return sum(sum(part) / len(part) for part in by_label.values()) / len(by_label)

    def _instruction(self) -> Instruction:
        with self._lora.silent() if self._lora.acts_behind else nullcontext():
            return Instruction(self._lora.base, self._turn.before)

    def _mix(self, sample_ids: Sequence[SampleId]) -> Mix | None:
        kind = self._recipe.mixing
        if kind == "none" or len(sample_ids) < 2:
            return None
        return Mix.sample(kind, [torch.initial_seed(), *(i for i, _ in sample_ids)])

    def _losses(
        self, samples: Samples, sample_ids: Sequence[SampleId], instruction: Instruction, mix: Mix | None = None
    ) -> torch.Tensor:
        rows = self._source.rows(samples, sample_ids, self._turn, mix)
        if self._lora.acts_behind:
            hidden = last_hidden_behind(self._lora, rows, instruction.prefix, self._turn.after)
        else:
            hidden = last_hidden(self._lora.base, rows, instruction.prefix)
        labels = [samples.examples[i].label for i, _ in sample_ids]
        losses = answer_loss(hidden, self._weight, self._targets(labels))
        if mix is None:
            return losses
        others = answer_loss(hidden, self._weight, self._targets(mix.partners(labels)))
        return mix.share * losses + (1 - mix.share) * others

    def _targets(self, labels: Sequence[int]) -> torch.Tensor:
        return self._answers[torch.tensor(labels, device=self._answers.device)]
