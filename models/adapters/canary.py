"""Does an adapter still score as it did at the end of its training? Asked before it is put to use.

Two failures show here and nowhere else: a serving stack that computes something else (the stored margins do not come
out again), and an adapter that loads without effect (its margins are the base's).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.adapters.card import Canary
from models.errors import ModelInvalid, unreadable
from models.types import Scorer

# Of one margin, in logits, by the wider of the two precisions; twice the widest of 500 images of the pocket model
# against fp32 (python -m bench precision): bf16 0.11, int8 0.11, nf4 0.19; published rerankers move further in 4 bit.
TOLERANCE = {"fp32": 0.05, "bf16": 0.25, "int8": 0.25, "nf4": 0.5}
MEAN_SHARE = 0.5  # of the tolerance, for the mean: rounding moves few margins far, a wrong computation moves them all
LEAST_EFFECT = 0.5  # of an adapter on the base's margins, mean, in logits


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """max_shift, mean_shift: |margin now - margin stored|. mean_effect: mean |margin of adapter - margin of base|.

    against: the precision in which the stored margins were computed.
    """

    precision: str
    against: str
    n: int
    max_shift: float
    mean_shift: float
    mean_effect: float

    def problem(self) -> str | None:
        """Why the adapter must not be used, in one line, or None."""
        most = max(TOLERANCE[self.precision], TOLERANCE[self.against])
        # Turned so that margins that are no numbers do not pass.
        if not (self.max_shift < most and self.mean_shift < MEAN_SHARE * most):
            return (
                f"the canary's margins moved by up to {self.max_shift:.3f}, {self.mean_shift:.3f} on average "
                f"({self.precision} against {self.against} may: {most:g} and {MEAN_SHARE * most:g}); "
                "this machine or version computes something else than training did"
            )
        if self.mean_effect <= LEAST_EFFECT:
            return (
                f"the adapter hardly moves the base's margins ({self.mean_effect:.3f} on average), it learnt next to "
                "nothing: it takes more labels, another recipe (head) or other words in the check"
            )
        return None


def try_canary(canary: Canary, folder: Path, *, adapter: Scorer, base: Scorer) -> CanaryResult:
    """Score the canary's images, kept in the adapter's `folder`, with the adapter and with the base alone."""
    images = [_open(folder / name) for name in canary.images]
    now = [reading.margin for reading in adapter.score([adapter.prepare(image) for image in images])]
    alone = [reading.margin for reading in base.score([base.prepare(image) for image in images])]
    shifts = [abs(a - b) for a, b in zip(now, canary.margins, strict=True)]
    return CanaryResult(
        precision=adapter.identity.precision,
        against=canary.precision,
        n=len(shifts),
        max_shift=max(shifts),
        mean_shift=sum(shifts) / len(shifts),
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
