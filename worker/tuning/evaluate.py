"""What a setting says of images: first looks, the gate, second looks as far as the cap allows, fusion.

Readings come from a `Sight`, which keeps them: gate, cap and fusion cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from models.adapters.calibration import Thresholds, certify_precision, certify_recall, thresholds_from
from models.crops.fusion import fused
from models.crops.policy import CropPolicy
from models.training.data.types import Example
from models.types import Question, Reading
from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from worker.scoring.crop_gate import Allowance, band_of, crop_reason, order, policy_of
from worker.tuning.objective import Outcome, Truth
from worker.tuning.search_space import First, Setting

AHEAD = 64  # second looks that are read before it is known whether the cap allows all of them


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A second look, not fused yet. tokens: what finding the region cost. rows empty: nothing was found to look at."""

    rows: tuple[Reading, ...]
    tokens: int = 0

    @property
    def cost(self) -> int:
        """Visual tokens beyond the first look."""
        return self.tokens + sum(row.visual_tokens for row in self.rows)


class Scores(Protocol):
    """Reads images, each in one way at most once. Images are positions in a list of examples."""

    def first(self, first: First, images: Sequence[int]) -> list[Reading]: ...

    def second(self, first: First, policy: CropPolicy, images: Sequence[int]) -> list[Looked]:
        """`policy.fuse` does not matter."""
        ...

    def first_tokens(self, first: First, images: Sequence[int]) -> float:
        """Mean visual tokens of the first look, from the images' sizes alone."""
        ...

    def shrink(self, first: First, image: int) -> float:
        """How many times the sides of an image are divided before the first look."""
        ...


class Evaluator:
    """Settings on parts of the examples. thresholds: of first looks, certified on `search`."""

    def __init__(
        self,
        *,
        scores: Scores,
        examples: Sequence[Example],
        check: Check,
        question: Question,
        search: Sequence[int],
    ) -> None:
        self._scores = scores
        self._labels = np.array([example.label for example in examples])
        flags = np.array([label in question.flags for label in question.labels])
        self._positive = flags[self._labels]
        self._clusters = [example.cluster for example in examples]
        self._keys = [example.key for example in examples]
        self._check, self._question, self._search = check, question, search
        self._thresholds: dict[First, Thresholds] = {}

    def truth(self, images: Sequence[int]) -> Truth:
        return Truth(positive=self._positive[list(images)], clusters=[self._clusters[at] for at in images])

    def outcome(self, setting: Setting, images: Sequence[int]) -> Outcome:
        """Raises what the device raises."""
        firsts = self._scores.first(setting.first, images)
        answers = dict(zip(images, firsts, strict=True))
        tokens = {image: float(first.visual_tokens) for image, first in answers.items()}
        again = set()
        if not isinstance(setting.crop, str):
            for image, looked in self._second_looks(setting.first, setting.crop, answers):
                tokens[image] += looked.cost
                if looked.rows:
                    again.add(image)
                    answers[image] = fused(answers[image], looked.rows, how=setting.crop.fuse, question=self._question)
        said = np.array([int(np.argmax(answers[image].logits)) for image in images])
        return Outcome(
            margins=np.array([answers[image].margin for image in images], dtype=np.float64),
            right=said == self._labels[list(images)],
            tokens=np.array([tokens[image] for image in images]),
            again=np.array([image in again for image in images]),
        )

    def first_margins(self, first: First, images: Sequence[int]) -> list[float]:
        return [reading.margin for reading in self._scores.first(first, images)]

    def first_thresholds(self, first: First) -> Thresholds:
        """What the gate goes by: both targets of the check, certified on the first looks of the search part."""
        if not self._question.flags:
            return Thresholds(review=None, flag=None)
        if first not in self._thresholds:
            margins = self.first_margins(first, self._search)
            positive = self._positive[list(self._search)].tolist()
            recall = certify_recall(margins, positive, target=self._check.target_recall)
            precision = certify_precision(margins, positive, target=self._check.target_precision)
            self._thresholds[first] = thresholds_from(recall, precision)
        return self._thresholds[first]

    def _second_looks(
        self, first: First, crop: CropSettings, answers: dict[int, Reading]
    ) -> Iterator[tuple[int, Looked]]:
        """Those that the fleet's gate lets through, the least certain first, until the cap is reached."""
        thresholds = self.first_thresholds(first)
        band = band_of(thresholds=thresholds, calibrator=None, has_flags=bool(self._question.flags))
        policy = policy_of(self._check.model_copy(update={"max_pixels": first.max_pixels}), crop)
        allowance = Allowance(crop.max_extra)
        wanted = []
        for image, reading in answers.items():
            allowance.earn(reading.visual_tokens)
            if crop_reason(crop, reading, band, shrink=self._scores.shrink(first, image)) is not None:
                wanted.append((order(reading, band, self._keys[image]), image))
        stream = iter([image for _, image in sorted(wanted)])
        while some := list(islice(stream, AHEAD)):
            spent = False
            for image, looked in zip(some, self._scores.second(first, policy, some), strict=True):
                if allowance.take(looked.cost):
                    yield image, looked
                else:
                    spent = True
            if spent:
                return
