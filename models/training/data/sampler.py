"""The images of each step: balanced by class, grouped by size, the same for the same seed. Pure.

Everything is a function of (seed, epoch), so that a training that resumes needs no record of earlier samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 8  # optimiser steps whose images are sorted by size together

SampleId = tuple[int, int]  # index of an example, and its variant: 0 as it is, from 1 on an enlarged crop
Step = list[list[SampleId]]  # forwards of one optimiser step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The images of each step.

    With `balanced`, classes take equal parts of an epoch, so that an example of a rare class comes several times. Crops
    come as often as the examples that they are cut from, which doubles the weight of small objects. They make up at
    most `small_share` of a class; recipes allow a quarter, so that three quarters are real images.

    Attributes:
        labels: `[examples]`, index of each label.
        small: `[examples]`, number of enlarged crops of each.
        seed: The same seed gives the same plan.
        batch: Images per forward.
        accumulation: Forwards per optimiser step.
        balanced: Whether classes take equal parts.
        small_share: Largest share of crops in a class, in [0, 1).
    """

    labels: Sequence[int]
    small: Sequence[int]
    seed: int
    batch: int
    accumulation: int
    balanced: bool
    small_share: float

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return max(1, -(-len(self.labels) // (self.batch * self.accumulation)))

    def epoch(self, number: int, sizes: dict[SampleId, int]) -> list[Step]:
        """Return the steps of an epoch.

        Args:
            number: Number of the epoch, from 0.
            sizes: Tokens of each image; the images of a forward are alike in size.
        """
        sample_ids = self._epoch_ids(number)
        rng = np.random.default_rng([self.seed, 1, number])
        sample_ids = [sample_ids[i] for i in rng.permutation(len(sample_ids))]
        window = WINDOW * self.batch * self.accumulation
        forwards: list[list[SampleId]] = []
        for start in range(0, len(sample_ids), window):
            alike = sorted(sample_ids[start : start + window], key=lambda sample_id: sizes[sample_id])
            forwards += [alike[i : i + self.batch] for i in range(0, len(alike), self.batch)]
        forwards = [forwards[i] for i in rng.permutation(len(forwards))]
        return [forwards[i : i + self.accumulation] for i in range(0, len(forwards), self.accumulation)]

    def sample_ids(self) -> list[SampleId]:
        """Return every image and crop that can occur, in order."""
        return [(i, variant) for i, crops in enumerate(self.small) for variant in range(crops + 1)]

    def _epoch_ids(self, number: int) -> list[SampleId]:
        groups = self._groups()
        total = self.steps * self.batch * self.accumulation
        sample_ids: list[SampleId] = []
        for place, group in enumerate(groups):
            quota = total // len(groups) + (place < total % len(groups))
            sample_ids += self._of_group(group, place, start=number * quota, quota=quota)
        return sample_ids

    def _groups(self) -> list[list[int]]:
        if not self.balanced:
            return [list(range(len(self.labels)))]
        return [[i for i, label in enumerate(self.labels) if label == kind] for kind in sorted(set(self.labels))]

    def _of_group(self, group: list[int], place: int, *, start: int, quota: int) -> list[SampleId]:
        small = [i for i in group if self.small[i]]
        crops = min(int(quota * self.small_share), round(quota * len(small) / len(group))) if small else 0
        real = quota - crops
        each_epoch = start // quota if quota else 0
        chosen: list[SampleId] = [(i, 0) for i, _ in self._stream(group, place, 2, each_epoch * real, real)]
        for i, turn in self._stream(small, place, 3, each_epoch * crops, crops):
            chosen.append((i, 1 + turn % self.small[i]))
        return chosen

    def _stream(self, group: list[int], place: int, kind: int, start: int, count: int) -> list[tuple[int, int]]:
        """Return a part of an endless sequence of shuffled groups: (example, how often it occurred before)."""
        found: list[tuple[int, int]] = []
        for at in range(start, start + count):
            turn, within = divmod(at, len(group))
            if not found or not within:
                order = np.random.default_rng([self.seed, kind, place, turn]).permutation(len(group))
            found.append((group[order[within]], turn))
        return found
