"""Scores without a model: some settings show a planted target, all others noise. Records each reading."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from scanfleet.checks.check import Check
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import ModelIdentity, Question, Reading
from scanfleet.worker.tuning.evaluate import CropResult
from scanfleet.worker.tuning.search_space import FirstPass

CHECK = Check(
    name="specks", prompt="Is there a speck?", labels=("speck", "none"), flags=("speck",), max_pixels=320 * 320
)
QUESTION = Question(
    name="specks",
    prompt="Is there a speck?",
    labels=("speck", "none"),
    flags=frozenset({"speck"}),
    max_pixels=320 * 320,
)
IDENTITY = ModelIdentity(base_model="seen", revision="1", precision="fp32", adapter_sha256=None)
PIXELS_PER_TOKEN = 1024


def examples(n: int, *, labels: int = 2, per_group: int = 1) -> list[Example]:
    """Labels in turn, images of a group in a row with the same label."""
    return [
        Example(
            key=f"{at:04}",
            path=Path(f"{at:04}"),
            label=at // per_group % labels,
            cluster=f"group {at // per_group}",
            boxes=(),
            open=lambda _: Image.new("RGB", (8, 8)),
        )
        for at in range(n)
    ]


def noise(*parts: object) -> float:
    """Standard normal, the same for the same parts."""
    drawn = repr(parts).replace(", order=None", "")
    return random.Random(zlib.crc32(drawn.encode())).gauss(0, 1)


@dataclass
class PlantedScores:
    """helps: whether a crop pass shows the target. strength: by how many standard deviations."""

    examples: Sequence[Example]
    helps: Callable[[FirstPass, CropPolicy], bool] = lambda first, policy: False
    first_strength: Callable[[FirstPass], float] = lambda first: 0.0
    strength: float = 6.0
    read_first: list[tuple[FirstPass, int]] = field(default_factory=list)
    read_crops: list[tuple[FirstPass, CropPolicy, int]] = field(default_factory=list)
    before_reading: Callable[[], None] = lambda: None

    def first_pass(self, first: FirstPass, images: Sequence[int]) -> list[Reading]:
        self.before_reading()
        self.read_first += [(first, image) for image in images]
        return [self._reading(image, self.first_strength(first), first.max_pixels, first) for image in images]

    def crop_pass(self, first: FirstPass, policy: CropPolicy, images: Sequence[int]) -> list[CropResult]:
        self.before_reading()
        self.read_crops += [(first, policy, image) for image in images]
        strength = self.strength if self.helps(first, policy) else 0.0
        pixels = policy.crop_pixels + (policy.context_pixels if policy.look == "pair" else 0)
        pixels *= 4 if policy.look == "tiles" else 1
        return [CropResult(rows=(self._reading(image, strength, pixels, first, policy.look),)) for image in images]

    def first_tokens(self, first: FirstPass, images: Sequence[int]) -> float:
        return first.max_pixels // PIXELS_PER_TOKEN

    def shrink(self, first: FirstPass, image: int) -> float:
        return 1.0

    def _reading(self, image: int, strength: float, pixels: int, *way: object) -> Reading:
        signal = strength * (0.5 if self.examples[image].label == 0 else -0.5)
        margin = signal + noise(image, *way)
        return Reading(
            margin=margin, logits=(margin / 2, -margin / 2), mass=0.99, visual_tokens=max(1, pixels // PIXELS_PER_TOKEN)
        )
