"""The scorer: one prefill per image, read at the position where the answer would begin.

    h = last hidden state at the answer position    [batch, hidden]
    label logit = logsumexp over the label's token spellings of h · W[token]
    margin = logsumexp(flagging labels) - logsumexp(the others)

The instruction precedes the image: its keys and values are computed once and read by every image
(`models.network.prefix`), and no state of an image is kept. The published form of this is Qwen3-VL-Reranker (two rows
of the head instead of generating "yes"). Logits of shape `[batch, tokens, vocabulary]` are never made; the whole
vocabulary is read once per image, in slices, for the label mass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage, Row
from scanfleet.models.network.activated import acting_behind
from scanfleet.models.network.attention import emphasis_bias
from scanfleet.models.network.pooling import pooling
from scanfleet.models.network.prefix import Prefix
from scanfleet.models.network.recording import recording
from scanfleet.models.types import Detail, ModelIdentity, Question, Reading, Resized

if TYPE_CHECKING:
    from scanfleet.models.adapters.likeness import Likeness
    from scanfleet.models.network.base import BaseModel

_VOCABULARY_SLICE = 16_384  # rows of the output embedding converted to fp32 at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """What one forward gives for each of its rows.

    Attributes:
        hidden: `[batch, hidden]` at the answer position, in the network's dtype.
        attention: `[visual tokens]` float32 each; None where `record_layers` is None.
        features: `[features]` float32 each, the mean of the visual tokens; None where nobody needs it.
    """

    hidden: torch.Tensor
    attention: list[NDArray[np.float32] | None]
    features: list[NDArray[np.float32] | None]


class PrefillScorer:
    """Implements `models.types.Scorer` over a transformers model. `prepare` is thread-safe.

    Args:
        base: The loaded base model.
        question: A question without steps.
        identity: Weights behind the margins; its adapter must be loaded.

    Attributes:
        prompt: The question as the tokenizer renders it.
        record_layers: Language-model layers, 0-based, whose attention `score` records. (): the middle third. None: no
            attention is recorded.
        likeness: Of the adapter's calibration images; None: readings do not say how unlike an image is.
        keep_features: Whether readings keep the mean of the visual tokens.

    Raises:
        ModelInvalid: The labels cannot be coded in single tokens, or the output head is quantised.
    """

    def __init__(self, *, base: BaseModel, question: Question, identity: ModelIdentity) -> None:
        self._base = base
        self._question = question
        self._identity = identity
        self.prompt = base.processor.prompt(question)
        self.record_layers: tuple[int, ...] | None = None
        self.likeness: Likeness | None = None
        self.keep_features = False
        self._prefix: Prefix | None = None
        self._acting = base.acting(identity.adapter_sha256, self.prompt.turn)
        self._head = LabelHead(
            weight=base.network.get_output_embeddings().weight,
            token_ids=[code.token_ids for code in self.prompt.codes],
            flags=[label in question.flags for label in question.labels],
        )

    @property
    def question(self) -> Question:
        return self._question

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def detail(self) -> Detail | None:
        """The image size that `prepare` needs; None: all pixels."""
        question, reader = self._question, self._base.processor.reader
        found = reader.detail(max_pixels=question.max_pixels)
        resizing = reader.resizing(max_pixels=question.max_pixels, min_pixels=question.min_pixels)
        return None if found is None else replace(found, resizing=resizing)

    def prepare(self, image: Image.Image | Resized) -> PreparedImage:
        """Resize one image on the host.

        Raises:
            ImageUnsuitable: The model cannot take this image.
        """
        question = self._question
        return self._base.processor.prepare(image, max_pixels=question.max_pixels, min_pixels=question.min_pixels)

    @property
    def parts(self) -> Sequence[PrefillScorer]:
        """The scorers, one per prompt, whose readings `combined` turns into those of this question."""
        return [self]

    def combined(self, readings: Sequence[Sequence[Reading]]) -> list[Reading]:
        """Return the readings of the rows, given those of each part."""
        return list(readings[0])

    @torch.inference_mode()
    def score(self, prepared: Sequence[Row]) -> list[Reading]:
        """Run one forward over all given rows.

        Returns:
            One reading per row, in their order; none for no rows.

        Raises:
            ModelInvalid: The adapter was released from memory.
        """
        if not prepared:
            return []
        return self.readings(self.forward(prepared), prepared)

    def readings(self, found: Forward, prepared: Sequence[Row]) -> list[Reading]:
        """Return the readings of rows, with their features and with how unlike the calibration images they are.

        Args:
            found: Of a forward over the rows.
            prepared: The rows.
        """
        kept = self._plain_readings(found, prepared)
        if self.keep_features:
            kept = [replace(each, features=seen) for each, seen in zip(kept, found.features, strict=True)]
        seen = [each for each in found.features if each is not None]
        if self.likeness is None or len(seen) < len(kept):
            return kept
        limit, shares = self.likeness.limit, self.likeness.unlike(np.stack(seen))
        return [replace(each, unlike=share, is_unlike=share > limit) for each, share in zip(kept, shares, strict=True)]

    def _plain_readings(self, found: Forward, prepared: Sequence[Row]) -> list[Reading]:
        logits, margins, mass = self._head(found.hidden)
        return [
            Reading(margin=margin, logits=tuple(row), mass=share, visual_tokens=image.visual_tokens, attention=seen)
            for margin, row, share, image, seen in zip(
                margins.tolist(), logits.tolist(), mass.tolist(), prepared, found.attention, strict=True
            )
        ]

    @property
    def output(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """weight `[vocabulary, hidden]` and bias `[vocabulary]` that make logits of a hidden state; None: no bias."""
        return self._base.network.get_output_embeddings().weight, None

    def last_hidden(self, prepared: Sequence[Row]) -> torch.Tensor:
        """Return the hidden state at the answer position; a classification head reads the same.

        Args:
            prepared: Prepared rows, at least one.

        Returns:
            `[batch, hidden]` in the network's dtype, on its device.
        """
        return self.forward(prepared).hidden

    def forward(self, prepared: Sequence[Row]) -> Forward:
        """Run one forward and read the answer position.

        Args:
            prepared: Prepared rows, at least one.

        Raises:
            ModelInvalid: The adapter was released from memory.
        """
        base = self._base
        with base.using(self._identity.adapter_sha256) as network:
            prefix = self.read_instruction()
            rows = base.processor.rows(self.prompt.turn, prepared, device=base.device, dtype=network.dtype)
            width = rows.inputs["input_ids"].shape[1]
            bias = emphasis_bias(rows.emphasis, rows.after, dtype=network.dtype)
            inputs = rows.inputs | prefix.inputs(width, base.device, bias)
            wanted = base.pools and (self.keep_features or self.likeness is not None)
            with (
                acting_behind(self._acting, rows),
                recording(base.network, base.family, base.processor.reader, self.record_layers, rows) as attention,
                pooling(base.processor.reader, rows, wanted=wanted) as features,
            ):
                hidden = base.processor.reader.hidden(network, inputs)
        last = hidden[torch.arange(len(prepared), device=base.device), rows.last]
        return Forward(hidden=last, attention=attention, features=features)

    def read_instruction(self) -> Prefix:
        """Return the keys and values of the tokens before the image, the same for every image under this adapter.

        The adapter is active.
        """
        if self._prefix is None:
            before = self.prompt.turn.before
            self._prefix = Prefix.of(self._base.network.base_model, before)
        return self._prefix


class LabelHead:
    """Label logits, margin and label mass from hidden states, accumulated in fp32.

    Args:
        weight: `[vocabulary, hidden]`, the model's output embedding, kept by reference.
        token_ids: The single-token spellings of each label.
        flags: `[labels]`, whether each label flags.

    Raises:
        ModelInvalid: The output embedding is quantised.
    """

    def __init__(self, *, weight: torch.Tensor, token_ids: Sequence[Sequence[int]], flags: Sequence[bool]) -> None:
        if weight.ndim != 2 or not weight.dtype.is_floating_point:
            raise ModelInvalid("the output head is quantised; load the model with the head left in bf16")
        self._weight = weight
        ids = [token for spelling in token_ids for token in spelling]
        self._rows = weight[torch.tensor(ids, device=weight.device)].float()  # [spellings, hidden]
        self._sizes = [len(spelling) for spelling in token_ids]
        self._flags = torch.tensor(flags, device=weight.device)

    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read hidden states.

        Args:
            hidden: `[batch, hidden]`, any floating type.

        Returns:
            Label logits `[batch, labels]`, margins `[batch]` in logits and mass `[batch]` in [0, 1], all fp32.
        """
        hidden = hidden.float()
        spelled = hidden @ self._rows.T
        logits = torch.stack([part.logsumexp(-1) for part in torch.split(spelled, self._sizes, dim=-1)], dim=-1)
        mass = (spelled.logsumexp(-1) - self._log_partition(hidden)).exp().clamp(max=1.0)
        return logits, self._margin(logits), mass

    def _margin(self, logits: torch.Tensor) -> torch.Tensor:
        if self._flags.any():
            return logits[:, self._flags].logsumexp(-1) - logits[:, ~self._flags].logsumexp(-1)
        ranked = logits.sort(dim=-1, descending=True).values
        return ranked[:, 0] - ranked[:, 1:].logsumexp(-1)

    def _log_partition(self, hidden: torch.Tensor) -> torch.Tensor:
        slices = [(hidden @ part.float().T).logsumexp(-1) for part in torch.split(self._weight, _VOCABULARY_SLICE)]
        return torch.stack(slices).logsumexp(0)
