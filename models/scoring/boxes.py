"""Boxes by generation: a second pass over flagged images that asks for the place.

Greedy decoding over the instruction's keys and values (`models.network.prefix`) and those of each image; a row stops at
the end of its turn. Rows are padded on the right, and a generated token sees the tokens of its own row only, so
neighbours change nothing but rounding: where two tokens are almost equally likely, 16 bit may choose the other one in
another batch.

The generated text is untrusted; `models.scoring.box_format` parses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.processing import Rows
from scanfleet.models.network.prefix import Prefix
from scanfleet.models.scoring.box_format import Canvas, parse_boxes
from scanfleet.models.types import FoundBoxes, Question

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel

MAX_NEW_TOKENS = 512  # of an answer; about 15 boxes
BEGIN_WITHIN = 64  # tokens; an answer that has not begun a list by then never will
RESERVED_TOKENS = 128  # counted for each answer when images are packed; most are shorter
BEGINNINGS = ("[", "{", "<|object_ref_start|>", "<|box_start|>")
EXCERPT = 60  # characters of an unreadable answer that are reported


def boxes_instruction(question: Question) -> str:
    """Return the text of the user turn, worded as in the Qwen-VL cookbooks."""
    asked = [label for label in question.labels if label in question.flags]
    meant = [(label, question.descriptions.get(label) or label) for label in asked]
    named = ", ".join(f'"{label}"' if label == words else f'"{label}" ({words})' for label, words in meant)
    return (
        f"Locate every instance that belongs to the following categories: {named}. "
        'Report bbox coordinates in JSON format: [{"bbox_2d": [x0, y0, x1, y1], "label": "..."}]. '
        "Answer [] if there is none."
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A prepared image with the cost of finding."""

    image: PreparedImage

    @property
    def visual_tokens(self) -> int:
        return self.image.visual_tokens + RESERVED_TOKENS


@dataclass(kw_only=True, eq=False)
class Answer:
    """The tokens that one row generated.

    Attributes:
        ids: Generated token ids.
        ended: The row needs no further token.
        cut: Why it was stopped before the end of its turn; empty otherwise.
    """

    ids: list[int] = field(default_factory=list)
    ended: bool = False
    cut: str = ""


class GeneratingFinder:
    """Implements `models.types.Finder` over a transformers model.

    Args:
        base: The loaded base model.
        question: The question whose flagging labels are located.
        adapter_sha256: Digest of a loaded adapter; None: the base alone.
        max_new_tokens: Tokens after which an answer is cut.

    Raises:
        ModelInvalid: The model's family was not taught boxes.
    """

    def __init__(
        self,
        *,
        base: BaseModel,
        question: Question,
        adapter_sha256: str | None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        if base.family.boxes is None:
            raise ModelInvalid(
                f"{base.family.model_type} models were not taught to write boxes: set boxes = false in check "
                f"{question.name} or use another model"
            )
        self._base = base
        self._labels = [label for label in question.labels if label in question.flags]
        self._adapter_sha256 = adapter_sha256
        self._most = max_new_tokens
        self._turn = base.processor.turn(boxes_instruction(question), image_first=question.image_first)
        self._stops = _stops(base)
        self._prefix: Prefix | None = None

    def job(self, prepared: PreparedImage) -> Job:
        """Return the image with the cost of finding."""
        return Job(image=prepared)

    def find(self, jobs: Sequence[Job], *, heartbeat: Callable[[], None] = lambda: None) -> list[FoundBoxes]:
        """Locate the labels in each image.

        Args:
            jobs: Images from `job`.
            heartbeat: Called after each token.

        Returns:
            One answer per image, in pixels of the image that was prepared.
        """
        images = [job.image for job in jobs]
        return [
            self._read(answer, image) for answer, image in zip(self.generate(images, heartbeat), images, strict=True)
        ]

    @torch.inference_mode()
    def generate(self, images: Sequence[PreparedImage], heartbeat: Callable[[], None] = lambda: None) -> list[Answer]:
        """Generate an answer for each image, up to the end of its turn or to the cap.

        Args:
            images: Prepared images.
            heartbeat: Called after each token.
        """
        answers = [Answer() for _ in images]
        with self._base.using(self._adapter_sha256) as network:
            if self._prefix is None:
                self._prefix = Prefix.of(network.base_model, self._turn.before)
            rows = self._base.processor.rows(self._turn, images, device=self._base.device, dtype=network.dtype)
            decoding = _Decoding(network, self._prefix, rows)
            while not all(answer.ended for answer in answers):
                for answer, token in zip(answers, decoding.best(), strict=True):
                    self._take(answer, token)
                heartbeat()
                if not all(answer.ended for answer in answers):
                    decoding.advance()
        return answers

    def _take(self, answer: Answer, token: int) -> None:
        if answer.ended:
            return
        if token in self._stops:
            answer.ended = True
            return
        answer.ids.append(token)
        if len(answer.ids) == BEGIN_WITHIN and not any(mark in self._text(answer) for mark in BEGINNINGS):
            answer.cut = f"the answer began no list of boxes within {BEGIN_WITHIN} tokens"
        elif len(answer.ids) == self._most:
            answer.cut = f"the answer was cut off after {self._most} tokens"
        answer.ended = bool(answer.cut)

    def _text(self, answer: Answer) -> str:
        text: str = self._base.processor.tokenizer.decode(answer.ids, skip_special_tokens=False)
        return text

    def _read(self, answer: Answer, image: PreparedImage) -> FoundBoxes:
        text = self._text(answer)
        canvas = Canvas(original=image.original_size, resized=image.resized_size)
        found = parse_boxes(text, family=self._base.family, canvas=canvas, labels=self._labels)
        problems = [*([answer.cut] if answer.cut else []), *found.problems]
        if problems and not found.boxes:
            problems.append(f"it began with {text[:EXCERPT]!r}")
        return FoundBoxes(boxes=found.boxes, problems=tuple(problems), size=image.original_size)


class _Decoding:
    """A batch under generation, one token per row at a time."""

    def __init__(self, network: Any, prefix: Prefix, rows: Rows) -> None:
        ids = rows.inputs["input_ids"]
        n, width = ids.shape
        at = torch.arange(n, device=ids.device)
        self._network = network
        self._cache = {prefix.keyword: prefix.growing(n)}
        self._next = rows.inputs["position_ids"][..., at, rows.last] + 1  # [batch] or [3, batch]
        seen = torch.ones(width, prefix.length + width, dtype=torch.bool, device=ids.device).tril(prefix.length)
        self._hidden = self._forward(rows.inputs, seen[None, None])[at, rows.last]
        places = torch.arange(prefix.length + width, device=ids.device)
        self._seen = (places[None] <= (prefix.length + rows.last)[:, None])[:, None, None]  # [batch, 1, 1, tokens]
        self._tokens = ids.new_zeros(n)

    def best(self) -> list[int]:
        """Return the most likely next token of each row."""
        self._tokens = self._network.get_output_embeddings()(self._hidden).argmax(-1)
        found: list[int] = self._tokens.tolist()
        return found

    def advance(self) -> None:
        """Feed each row the token that `best` chose; rows that ended continue, and their tokens are ignored."""
        self._seen = torch.cat((self._seen, self._seen.new_ones(len(self._seen), 1, 1, 1)), dim=-1)
        inputs = {"input_ids": self._tokens[:, None], "position_ids": self._next[..., None]}
        self._hidden = self._forward(inputs, self._seen)[:, -1]
        self._next = self._next + 1

    def _forward(self, inputs: dict[str, Any], seen: torch.Tensor) -> torch.Tensor:
        out = self._network.base_model(**inputs, **self._cache, attention_mask=seen, use_cache=True)
        hidden: torch.Tensor = out.last_hidden_state
        return hidden


def _stops(base: BaseModel) -> frozenset[int]:
    """Return the tokens that end a turn."""
    eos = base.network.generation_config.eos_token_id
    every = [
        *(eos if isinstance(eos, list | tuple) else [eos]),
        base.processor.tokenizer.eos_token_id,
    ]
    return frozenset(int(token) for token in every if token is not None)
