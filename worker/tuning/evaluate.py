"""How a setting scores images: first pass, gate, crop passes within the cap, fusion.

Readings come from `Scores`, which caches them, so that gate, cap and fusion cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from scanfleet.models.adapters.calibration import Thresholds, thresholds_from
from scanfleet.models.adapters.certificates import certify_precision, certify_recall
from scanfleet.models.crops.fusion import fused
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Reading
from scanfleet.worker.scoring.crop_selection import Allowance, band_of, crop_reason, order, policy_of
from scanfleet.worker.tuning.objective import Outcome, Truth
from scanfleet.worker.tuning.search_space import CheckSetting, FirstPass

AHEAD = 64  # crop passes that are computed before it is known whether the cap allows all of them


@dataclass(frozen=True, kw_only=True)
class CropResult:
    """A crop pass before fusion. tokens: cost of finding the region. rows: empty if no region was found."""

    rows: tuple[Reading, ...]
    tokens: int = 0

    @property
    def cost(self) -> int:
        """Visual tokens beyond the first pass."""
        return self.tokens + sum(row.visual_tokens for row in self.rows)


class Scores(Protocol):
    """Reads images, each at most once per setting. Images are positions in a list of examples."""

    def first_pass(self, first: FirstPass, images: Sequence[int]) -> list[Reading]: ...

    def crop_pass(self, first: FirstPass, policy: CropPolicy, images: Sequence[int]) -> list[CropResult]:
        """`policy.fuse` is ignored."""
        ...

    def first_tokens(self, first: FirstPass, images: Sequence[int]) -> float:
        """Mean visual tokens of the first pass, from the sizes of the images alone."""
        ...

    def shrink(self, first: FirstPass, image: int) -> float:
        """Factor by which the sides of an image are divided before the first pass."""
        ...


class Evaluator:
    """Evaluates settings on parts of the examples. search: the images that certify thresholds of first passes."""

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
        self._thresholds: dict[FirstPass, Thresholds] = {}

    def truth(self, images: Sequence[int]) -> Truth:
        return Truth(positive=self._positive[list(images)], clusters=[self._clusters[at] for at in images])

    def outcome(self, setting: CheckSetting, images: Sequence[int]) -> Outcome:
        """Raises what the device raises."""
        firsts = self._scores.first_pass(setting.first, images)
        readings = dict(zip(images, firsts, strict=True))
        tokens = {image: float(first.visual_tokens) for image, first in readings.items()}
        cropped = set()
        if not isinstance(setting.crop, str):
            for image, result in self._crop_passes(setting.first, setting.crop, readings):
                tokens[image] += result.cost
                if result.rows:
                    cropped.add(image)
                    readings[image] = fused(
                        readings[image], result.rows, how=setting.crop.fuse, question=self._question
                    )
        answers = np.array([int(np.argmax(readings[image].logits)) for image in images])
        return Outcome(
            margins=np.array([readings[image].margin for image in images], dtype=np.float64),
            right=answers == self._labels[list(images)],
            tokens=np.array([tokens[image] for image in images]),
            cropped=np.array([image in cropped for image in images]),
        )

    def first_margins(self, first: FirstPass, images: Sequence[int]) -> list[float]:
        return [reading.margin for reading in self._scores.first_pass(first, images)]

    def first_thresholds(self, first: FirstPass) -> Thresholds:
        """The thresholds of the gate: both targets of the check, certified on first passes of the search part."""
        if not self._question.flags:
            return Thresholds(review=None, flag=None)
        if first not in self._thresholds:
            margins = self.first_margins(first, self._search)
            positive = self._positive[list(self._search)].tolist()
            clusters, check = [self._clusters[image] for image in self._search], self._check
            recall = certify_recall(margins, positive, target=check.target_recall, clusters=clusters)
            precision = certify_precision(
                margins, positive, target=check.target_precision, prevalence=check.prevalence, clusters=clusters
            )
            self._thresholds[first] = thresholds_from(recall, precision)
        return self._thresholds[first]

    def _crop_passes(
        self, first: FirstPass, crop: CropSettings, readings: dict[int, Reading]
    ) -> Iterator[tuple[int, CropResult]]:
        """Crop passes of the images that the fleet's gate selects, the least certain first, up to the cap."""
        thresholds = self.first_thresholds(first)
        band = band_of(thresholds=thresholds, calibrator=None, has_flags=bool(self._question.flags))
        policy = policy_of(self._check.model_copy(update={"max_pixels": first.max_pixels}), crop)
        allowance = Allowance(crop.max_extra)
        wanted = []
        for image, reading in readings.items():
            allowance.earn(reading.visual_tokens)
            if crop_reason(crop, reading, band, shrink=self._scores.shrink(first, image)) is not None:
                wanted.append((order(reading, band, self._keys[image]), image))
        stream = iter([image for _, image in sorted(wanted)])
        while some := list(islice(stream, AHEAD)):
            spent = False
            for image, result in zip(some, self._scores.crop_pass(first, policy, some), strict=True):
                if allowance.take(result.cost):
                    yield image, result
                else:
                    spent = True
            if spent:
                return
