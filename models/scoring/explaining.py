"""Explanations by generation: the model says in a sentence why it flags an image.

The conversation goes on behind the check's own prompt: the answer's letter, then a turn that asks why. The keys and
values of the instruction are those of the scorer, and greedy decoding follows (`models.scoring.decoding`). It is a
forward of its own over flagged images, so that no margin depends on it.

The text is untrusted: an image can dictate it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.further_turn import WHY
from scanfleet.models.scoring.decoding import Answer, decode, stops
from scanfleet.models.scoring.margin import likeliest_flag
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Reading, Written

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A prepared image with the flagging label to explain, and the cost of it."""

    image: PreparedImage
    label: str
    n_tokens: int  # that follow the image's at most

    @property
    def visual_tokens(self) -> int:
        return self.image.visual_tokens + self.n_tokens


class GeneratingExplainer:
    """Implements `models.types.Explainer` over a transformers model.

    Args:
        base: The loaded base model.
        scorer: Of the question, whose prompt and adapter it continues. Under an activated LoRA the base explains.
        max_new_tokens: Tokens after which an explanation is cut off.

    Raises:
        ModelInvalid: The model writes no second turn.
    """

    def __init__(self, *, base: BaseModel, scorer: PrefillScorer, max_new_tokens: int) -> None:
        if not base.processor.reader.blind_to_questions:
            raise ModelInvalid(f"{base.family.model_type} models answer one question and write no explanation")
        self._base = base
        self._scorer = scorer
        self._most = max_new_tokens
        asked = {code.label: code for code in scorer.prompt.codes if code.label in scorer.question.flags}
        self._behind = {label: base.processor.further_turn(code, WHY) for label, code in asked.items()}
        self._stops = stops(base)

    def job(self, prepared: PreparedImage, reading: Reading) -> Job:
        """Return the image with what is to be explained, and the cost."""
        question = self._scorer.question
        label = likeliest_flag(reading.logits, question.labels, question.flags)
        return Job(image=prepared, label=label, n_tokens=len(self._behind[label]) + self._most)

    def explain(self, jobs: Sequence[Job], *, heartbeat: Callable[[], None] = lambda: None) -> list[Written]:
        """Explain each image's flag.

        Args:
            jobs: Images from `job`.
            heartbeat: Called after each token.

        Returns:
            One text per image, in their order.
        """
        decoded = partial(self._base.processor.tokenizer.decode, skip_special_tokens=True)
        return [Written(text=decoded(answer.ids), cut=bool(answer.cut)) for answer in self.generate(jobs, heartbeat)]

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Job], heartbeat: Callable[[], None] = lambda: None) -> list[Answer]:
        """Generate an answer for each image, up to the end of its turn or to the cap.

        Raises:
            ModelInvalid: The adapter was released from memory.
        """
        base, scorer = self._base, self._scorer
        with base.using(scorer.identity.adapter_sha256) as network:
            prefix = scorer.read_instruction()
            rows = base.processor.rows(
                scorer.prompt.turn,
                [job.image for job in jobs],
                device=base.device,
                dtype=network.dtype,
                behind=[self._behind[job.label] for job in jobs],
            )
            return decode(base, network, prefix, rows, take=self._take, heartbeat=heartbeat)

    def _take(self, answer: Answer, token: int) -> None:
        if token in self._stops:
            answer.ended = True
            return
        answer.ids.append(token)
        if len(answer.ids) == self._most:
            answer.ended, answer.cut = True, f"after {self._most} tokens"
