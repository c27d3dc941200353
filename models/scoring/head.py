"""A classification head: K rows over the last hidden state, in place of the label tokens' rows of the vocabulary.

    logits = W h + b      h `[batch, hidden]`: last hidden state at the answer position; W `[labels, hidden]`, b
                          `[labels]`, in fp32

Over a fine-tuned base it was the best published form for many fine-grained classes (Flowers102 on a 4 B Qwen3-VL: 95.2
against 73.5 for the tuned model's own answers). `initial_head` starts from the label tokens, so that an untrained head
answers as the base does. Its file is safetensors with `weight` and `bias` in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from scanfleet.models.errors import ModelInvalid, one_line
from scanfleet.models.families import Row
from scanfleet.models.scoring.margin import margin_of
from scanfleet.models.scoring.prefill import Forward, PrefillScorer
from scanfleet.models.types import ModelIdentity, Question, Reading

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A linear layer over the last hidden state.

    Attributes:
        weight: `[labels, hidden]` fp32, a row per label in the question's order.
        bias: `[labels]` fp32.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the label logits.

        Args:
            hidden: `[batch, hidden]`, any floating type.

        Returns:
            `[batch, labels]` fp32, on the device of `hidden`.
        """
        return hidden.float() @ self.weight.to(hidden.device).T + self.bias.to(hidden.device)


class HeadScorer(PrefillScorer):
    """A PrefillScorer whose logits come from a head.

    `mass` is 1, because the head knows no tokens but the labels.

    Args:
        base: The loaded base model.
        question: A question without steps.
        identity: Weights behind the margins.
        head: Head for the question's labels and the base's hidden size.
    """

    def __init__(self, *, base: BaseModel, question: Question, identity: ModelIdentity, head: Head) -> None:
        super().__init__(base=base, question=question, identity=identity)
        self._classes = Head(weight=head.weight.to(base.device), bias=head.bias.to(base.device))

    @property
    def output(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """weight `[labels, hidden]` and bias `[labels]` of the head, both fp32."""
        return self._classes.weight, self._classes.bias

    def _plain_readings(self, found: Forward, prepared: Sequence[Row]) -> list[Reading]:
        question = self.question
        return [
            Reading(
                margin=margin_of(row, question.labels, question.flags),
                logits=tuple(row),
                mass=1.0,
                visual_tokens=image.visual_tokens,
                attention=seen,
            )
            for row, image, seen in zip(
                self._classes.logits(found.hidden).tolist(), prepared, found.attention, strict=True
            )
        ]


def initial_head(base: BaseModel, question: Question) -> Head:
    """Return an untrained head: each label's row of the output embedding (its first spelling), no bias.

    Where labels have a single spelling it gives exactly the margins of the label tokens.

    Returns:
        weight `[labels, hidden]`, bias `[labels]`, fp32 on the host.
    """
    weight = base.network.get_output_embeddings().weight.detach()
    ids = [code.answer_id for code in base.processor.prompt(question).codes]
    return Head(weight=weight[ids].float().cpu(), bias=torch.zeros(len(ids)))


def write_head(head: Head) -> bytes:
    """Serialise a head as a safetensors file, for `models.adapters.card.write_adapter`."""
    tensors = {"weight": head.weight, "bias": head.bias}
    return save_tensors({name: value.detach().float().cpu().contiguous() for name, value in tensors.items()})


def read_head(data: bytes, *, question: Question, features: int, where: str) -> Head:
    """Parse head.safetensors.

    Args:
        data: The whole file.
        question: The question that the head answers.
        features: Hidden size of the base.
        where: The adapter's folder, for messages.

    Returns:
        weight `[labels, features]`, bias `[labels]`, fp32 on the host.

    Raises:
        ModelInvalid: The file is not safetensors or holds other tensors than weight and bias, finite and in fp32.
    """
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ModelInvalid(f"{where}: the head is not safetensors: {one_line(error)}") from error
    n = len(question.labels)
    expected = {"weight": (n, features), "bias": (n,)}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != expected:
        raise ModelInvalid(f"{where}: the head holds {_shapes(found)}, this base and question need {_shapes(expected)}")
    if any(value.dtype != torch.float32 for value in tensors.values()):
        raise ModelInvalid(f"{where}: the head is not in fp32; save it with scanfleet.models.scoring.head.write_head")
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ModelInvalid(f"{where}: the head's weights are not all finite; train with a lower lr")
    return Head(weight=tensors["weight"], bias=tensors["bias"])


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "nothing"
