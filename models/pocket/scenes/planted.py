"""The benchmark's pictures: bags whose one small part is tiny (`planted`) or large enough for a first pass (`large`).

Pure functions of (seed, index). Half of the pictures show a blade. The others show an equally salient plate, as in
`scenes/razor.py`, or no part. Seeds from 1,000 up belong to benchmarks, lower ones to training, calibration and tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from scanfleet.models.pocket.scenes import razor
from scanfleet.models.pocket.scenes.scene import dice
from scanfleet.models.types import Box

PROPORTIONS = ((1, 1), (1, 1), (4, 3), (3, 4), (3, 2), (2, 3))  # width : height
TINY = (0.01, 0.05)  # the part's length as a share of the shorter side
FEWEST = 16  # px: a part is at least this long, so that the pixels hold the answer
LARGE = (0.15, 0.5)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A picture and its truth.

    Attributes:
        image: the picture.
        label: "blade" or "none".
        box: of the part, blade or look-alike, in pixels; None: no part.
        make: of the part, or "empty".
    """

    image: Image.Image
    label: str
    box: Box | None
    make: str


def planted(seed: int, index: int) -> Planted:
    """Return a picture of 512 to 2048 px with a tiny part; blade and none in turn."""
    rng = dice(seed, "planted", index)
    width, height = _size(rng.choice((512, 768, 1024, 1280, 1536, 2048)), rng.choice(PROPORTIONS))
    shorter = min(width, height)
    low = max(TINY[0], FEWEST / shorter)
    return _draw(seed, index, width, height, (low, max(low, TINY[1])))


def large(seed: int, index: int) -> Planted:
    """Return a picture of 256 to 1024 px with a large part; blade and none in turn."""
    rng = dice(seed, "large", index)
    width, height = _size(rng.choice((256, 384, 512, 768, 1024)), rng.choice(PROPORTIONS))
    return _draw(seed, index, width, height, LARGE)


def _size(longer: int, proportion: tuple[int, int]) -> tuple[int, int]:
    across, down = proportion
    return longer * across // max(proportion), longer * down // max(proportion)


def _draw(seed: int, index: int, width: int, height: int, share: tuple[float, float]) -> Planted:
    scene = razor.draw(seed, index, width, height, share=share)
    return Planted(
        image=scene.image,
        label=scene.label,
        box=scene.boxes[0] if scene.boxes else None,
        make=scene.style,
    )
