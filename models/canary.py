"""Does an adapter still score as it did at the end of its training? Asked before it is put to use.

Two failures show here and nowhere else: a serving stack that computes something else (the stored margins do not come
out again), and an adapter that loads without effect (its margins are the base's).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.adapters import Canary
from models.errors import ModelInvalid, unreadable
from models.types import Scorer

# Of a margin, in logits, against one stored in fp32 or bf16; measured on the pocket model: bf16 0.012, int8 0.015,
# nf4 0.15, and published reranker scores move several times as far in 4 bit.
TOLERANCE = {"fp32": 0.05, "bf16": 0.05, "int8": 0.05, "nf4": 0.5}
LEAST_EFFECT = 0.5  # of an adapter on the base's margins, mean, in logits


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """max_shift: widest |margin now - margin stored|. mean_effect: mean |margin of adapter - margin of base|."""

    precision: str
    max_shift: float
    mean_effect: float

    def problem(self) -> str | None:
        """Why the adapter must not be used, in one line, or None."""
        tolerance = TOLERANCE[self.precision]
        if not self.max_shift < tolerance:  # nor for margins that are no numbers
            return (
                f"the canary's margins moved by up to {self.max_shift:.3f} ({self.precision} may: {tolerance:g}); "
                "this machine or version computes something else than training did"
            )
        if self.mean_effect <= LEAST_EFFECT:
            return f"the adapter hardly moves the base's margins ({self.mean_effect:.3f} on average); train it again"
        return None


def try_canary(canary: Canary, folder: Path, *, adapter: Scorer, base: Scorer) -> CanaryResult:
    """Score the canary's images, kept in the adapter's `folder`, with the adapter and with the base alone."""
    images = [_open(folder / name) for name in canary.images]
    now = [reading.margin for reading in adapter.score([adapter.prepare(image) for image in images])]
    alone = [reading.margin for reading in base.score([base.prepare(image) for image in images])]
    return CanaryResult(
        precision=adapter.identity.precision,
        max_shift=max(abs(a - b) for a, b in zip(now, canary.margins, strict=True)),
        mean_effect=sum(abs(a - b) for a, b in zip(now, alone, strict=True)) / len(now),
    )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise ModelInvalid(f"{path} is missing; copy the whole adapter folder") from error
    except OSError as error:
        raise unreadable(str(path), error) from error
