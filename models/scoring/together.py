"""Several questions about the same images, each image read once.

    image first         the keys and values of an image are computed once; each question is a row of its own tokens
                        behind them, so k questions cost one pass over the images and k short rows
    instruction first   the image's tokens see the instruction, so only the vision tower is shared

The numbers are those of each question alone, but for rounding: the same tokens at the same positions see the same
tokens. Questions under one adapter share a pass. Activated LoRAs share that of the base alone, each acting on its own
rows (`models.network.activated`). An adapter that changes the tower has a tower of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from scanfleet.models.families import PreparedRow, Row, images_of
from scanfleet.models.network.activated import Stack, acting
from scanfleet.models.network.pooling import pooling
from scanfleet.models.network.tower import shared_tower
from scanfleet.models.scoring.behind import ask, show
from scanfleet.models.scoring.prefill import Forward, PrefillScorer
from scanfleet.models.types import Reading

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel

AT_ONCE = 32_768  # tokens of questions and the images before them in one forward


class Together:
    """Scores images against several questions of one base model and one pixel budget.

    Args:
        base: The loaded base model of all scorers.
        scorers: One per question.

    Raises:
        ValueError: The questions differ in their pixel budgets, so that they need other images.
    """

    def __init__(self, *, base: BaseModel, scorers: Sequence[PrefillScorer]) -> None:
        budgets = {(scorer.question.max_pixels, scorer.question.min_pixels) for scorer in scorers}
        if len(budgets) > 1:
            raise ValueError(f"the questions read images of {len(budgets)} sizes: ask those of one size together")
        self._base = base
        self._asked = scorers
        self._scorers = [part for scorer in scorers for part in scorer.parts]
        self._passes = _passes(base, self._scorers)

    def score(self, prepared: Sequence[Row]) -> list[list[Reading]]:
        """Read the images once and answer every question.

        Args:
            prepared: Images from `prepare` of any of the scorers.

        Returns:
            For each question, one reading per image in their order.

        Raises:
            ModelInvalid: An adapter was released from memory.
        """
        found: dict[int, list[Reading]] = {}
        for tower in dict.fromkeys(each.tower for each in self._passes):
            passes = [each for each in self._passes if each.tower == tower]
            with shared_tower() if len(passes) > 1 else nullcontext(lambda: None) as begin_forward:
                for each in passes:
                    begin_forward()
                    found |= self._run(each, prepared)
        parts = iter(found[number] for number in range(len(self._scorers)))
        return [scorer.combined([next(parts) for _ in scorer.parts]) for scorer in self._asked]

    def _run(self, one: _Pass, prepared: Sequence[Row]) -> dict[int, list[Reading]]:
        if len(one.numbers) == 1 or any(isinstance(row, PreparedRow) for row in prepared):
            return {number: self._scorers[number].score(prepared) for number in one.numbers}
        scorers = [self._scorers[number] for number in one.numbers]
        found = self._behind_images(scorers, one.stack, prepared)
        return {
            number: scorer.readings(each, prepared)
            for number, scorer, each in zip(one.numbers, scorers, found, strict=True)
        }

    @torch.inference_mode()
    def _behind_images(
        self, scorers: Sequence[PrefillScorer], stack: Stack | None, images: Sequence[Row]
    ) -> list[Forward]:
        """Return what the forwards give for each question."""
        base = self._base
        with base.using(scorers[0].identity.adapter_sha256) as network:
            for scorer in scorers:
                base.require(scorer.identity.adapter_sha256)
            reader, instruction = base.processor.reader, scorers[0].read_instruction()
            turn = replace(scorers[0].prompt.turn, after=())
            rows = base.processor.rows(turn, images, device=base.device, dtype=network.dtype)
            wanted = base.pools and any(scorer.keep_features or scorer.likeness is not None for scorer in scorers)
            with pooling(reader, rows, wanted=wanted) as features:
                shown = show(base, network, instruction, rows.inputs)
            width = max(len(scorer.prompt.turn.after) for scorer in scorers)
            shown_images = [images_of(row) for row in images]
            longest = int(rows.after.max())
            places = reader.positions(
                before=shown.length - longest, rows=shown_images, between=0, width=longest + width
            ).to(base.device)
            at_once = max(1, AT_ONCE // (len(images) * (shown.length + width)))
            unseen: list[NDArray[np.float32] | None] = [None] * len(images)  # no attention is recorded
            found: list[Forward] = []
            for start in range(0, len(scorers), at_once):
                part = scorers[start : start + at_once]
                asked = [scorer.prompt.turn.after for scorer in part]
                with _acting(stack, slice(start, start + at_once), tokens=len(images) * max(map(len, asked))):
                    hidden = ask(network, asked, rows.after, places, shown)
                found += [
                    Forward(hidden=hidden[number, :, len(ids) - 1], attention=unseen, features=features)
                    for number, ids in enumerate(asked)
                ]
        return found


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """Questions that one pass over the images answers.

    Attributes:
        tower: What decides the tower's outputs; passes with the same can share them.
        numbers: Places of the questions, those with an activated LoRA first.
        stack: Their activated LoRAs; None: there are none.
    """

    tower: Hashable
    numbers: tuple[int, ...]
    stack: Stack | None


def _passes(base: BaseModel, scorers: Sequence[PrefillScorer]) -> list[_Pass]:
    alike: dict[Hashable, list[int]] = {}
    for number, scorer in enumerate(scorers):
        alike.setdefault(_pass_of(base, scorer, number), []).append(number)
    return [_as_pass(base, scorers, several) for several in alike.values()]


def _as_pass(base: BaseModel, scorers: Sequence[PrefillScorer], several: Sequence[int]) -> _Pass:
    adapters = {number: base.activated.get(scorers[number].identity.adapter_sha256 or "") for number in several}
    numbers = tuple(sorted(several, key=lambda number: adapters[number] is None))
    stacked = [adapter for number in numbers if (adapter := adapters[number]) is not None]
    tower = _tower_of(base, scorers[numbers[0]])
    return _Pass(tower=tower, numbers=numbers, stack=Stack(adapters=stacked) if stacked else None)


def _acting(stack: Stack | None, asked: slice, *, tokens: int) -> AbstractContextManager[None]:
    """Let the adapters of some of a pass's questions act on `tokens` each."""
    n = 0 if stack is None else len(stack.adapters[asked])
    return acting(stack, slice(0, n * tokens), asked) if n else nullcontext()


def _pass_of(base: BaseModel, scorer: PrefillScorer, number: int) -> Hashable:
    """Return the same for questions that share the keys and values of their images."""
    shareable = base.processor.reader.blind_to_questions and scorer.question.image_first
    if not shareable or scorer.record_layers is not None:
        return number
    adapter = scorer.identity.adapter_sha256
    return adapter if adapter in base.loaded else None, scorer.prompt.turn.before


def _tower_of(base: BaseModel, scorer: PrefillScorer) -> Hashable:
    adapter = scorer.identity.adapter_sha256
    if not base.processor.reader.blind_to_questions:
        return scorer.prompt.sha256, adapter
    return adapter if adapter in base.with_own_tower else None
