"""Pictures with planted text, as files in memory."""

from __future__ import annotations

from scanfleet.models.pocket.scenes import CHECKS
from scanfleet.models.pocket.scenes.scene import dice, stored


def draw(n: int, *, side: int, check: str = "overlay", seed: int = 11) -> list[bytes]:
    """Return n square pictures of `side` pixels, half JPEG, half PNG; the same order gives the same bytes."""
    scenes = (CHECKS[check].draw(seed, index, side, side) for index in range(n))
    return [stored(dice(seed, check + "-file", index), scene.image, 0.5)[0] for index, scene in enumerate(scenes)]
