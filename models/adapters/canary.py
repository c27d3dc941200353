"""Check that an adapter still scores as it did at the end of its training, before it is used.

Two failures show only here: a serving stack that computes something else (the stored margins are not reproduced), and
an adapter that loads without effect (its margins are those of the base).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from scanfleet.models.adapters.card import Canary
from scanfleet.models.errors import ModelInvalid, unreadable
from scanfleet.models.types import Scorer

# Shift of one margin in logits, by the less exact of the two precisions. Twice the largest shift of 500 images of the
# pocket model against fp32 (python -m bench precision): bf16 0.11, int8 0.11, nf4 0.19.
TOLERANCE = {"fp32": 0.05, "bf16": 0.25, "int8": 0.25, "nf4": 0.5}
MEAN_SHARE = 0.5  # of the tolerance, for the mean shift: rounding moves few margins far, a wrong computation all
LEAST_EFFECT = 0.5  # mean shift of the base's margins by an adapter, in logits


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The comparison of a canary's margins, all in logits.

    Attributes:
        precision: Of the weights that scored now.
        against: Precision in which the stored margins were computed.
        n: Number of images.
        max_shift: Largest |margin now - margin stored|.
        mean_shift: Mean |margin now - margin stored|.
        mean_effect: Mean |margin of adapter - margin of base|.
    """

    precision: str
    against: str
    n: int
    max_shift: float
    mean_shift: float
    mean_effect: float

    def problem(self) -> str | None:
        """Return one line why the adapter must not be used, or None."""
        most = max(TOLERANCE[self.precision], TOLERANCE[self.against])
        # Written with "not" so that NaN does not pass.
        if not (self.max_shift < most and self.mean_shift < MEAN_SHARE * most):
            return (
                f"the canary's margins moved by up to {self.max_shift:.3f}, {self.mean_shift:.3f} on average "
                f"(allowed for {self.precision} against {self.against}: {most:g} and {MEAN_SHARE * most:g}); this "
                "machine or version computes something else than training did: use its versions and precision"
            )
        if self.mean_effect <= LEAST_EFFECT:
            return (
                f"the adapter hardly moves the base's margins ({self.mean_effect:.3f} on average), so it has learnt "
                "next to nothing: it needs more labels, another recipe or another prompt in the check"
            )
        return None


def try_canary(canary: Canary, folder: Path, *, adapter: Scorer, base: Scorer) -> CanaryResult:
    """Score the canary's images with the adapter and with the base alone.

    Args:
        canary: Images and the margins stored at the end of training.
        folder: The adapter's folder, which holds the images.
        adapter: Scorer with the adapter.
        base: Scorer of the same question without it.

    Raises:
        ModelInvalid: An image of the canary is missing.
        ModelUnavailable: An image cannot be read now.
    """
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
