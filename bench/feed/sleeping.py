"""A scoring worker whose forward sleeps: `python -m bench.feed.sleeping score`. What is left is the host's work.

Pictures are prepared as the pocket model prepares them, in the worker and in its decoders.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from scanfleet.config.settings import Settings
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Detail, ModelIdentity, Prepared, Question, Reading, Resized, Scorer
from scanfleet.worker.__main__ import main
from scanfleet.worker.processes import score_worker
from scanfleet.worker.scoring.model import FakeModel

FORWARD_SECONDS = 0.005


class SleepingScorer:
    """Implements `models.types.Scorer`: every image gets the same reading."""

    def __init__(self, *, question: Question, identity: ModelIdentity, processor: Any) -> None:
        self.question = question
        self.identity = identity
        self._processor = processor

    @property
    def detail(self) -> Detail | None:
        budget = {"max_pixels": self.question.max_pixels, "min_pixels": self.question.min_pixels}
        resizing = self._processor.reader.resizing(**budget)
        return Detail(pixels=4 * self.question.max_pixels, short_side=1, resizing=resizing)

    def prepare(self, image: Image.Image | Resized) -> Prepared:
        question = self.question
        prepared = self._processor.prepare(image, max_pixels=question.max_pixels, min_pixels=question.min_pixels)
        return cast("Prepared", prepared)

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        time.sleep(FORWARD_SECONDS)
        logits = tuple(-float(number) for number in range(len(self.question.labels)))
        return [Reading(margin=1.5, logits=logits, mass=0.99, visual_tokens=image.visual_tokens) for image in prepared]


class SleepingModel(FakeModel):
    """The fake model, with the pictures of pocket."""

    def __init__(self) -> None:
        super().__init__()
        self._processor = load_base("pocket", revision=None, precision="fp32", device="cpu").processor

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        made = SleepingScorer(question=question, identity=self.identity, processor=self._processor)
        return cast("Scorer", made)


def load_model(_: Settings) -> SleepingModel:
    return SleepingModel()


if __name__ == "__main__":
    vars(score_worker)["load_model"] = load_model
    main()
