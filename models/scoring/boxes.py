"""Boxes by generation: a second pass over flagged images that asks for the place.

Greedy decoding (`models.scoring.decoding`) over the instruction's keys and values and those of each image; a row stops
at the end of its turn.

The generated text is untrusted; `models.scoring.box_format` parses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage
from scanfleet.models.network.prefix import Prefix
from scanfleet.models.scoring.box_format import Canvas, parse_boxes
from scanfleet.models.scoring.decoding import Answer, decode, stops
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
        self._stops = stops(base)
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
        with self._base.using(self._adapter_sha256) as network:
            if self._prefix is None:
                self._prefix = Prefix.of(network.base_model, self._turn.before)
            rows = self._base.processor.rows(self._turn, images, device=self._base.device, dtype=network.dtype)
            return decode(self._base, network, self._prefix, rows, take=self._take, heartbeat=heartbeat)

    def _take(self, answer: Answer, token: int) -> None:
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
