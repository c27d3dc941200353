"""What became of a second look, as the ledger holds it beside a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CAP = "cap"  # skipped: what second looks may cost was spent on images that were less certain


@dataclass(frozen=True, kw_only=True)
class CropResult:
    """Of an image that the check's gate asked to be looked at again.

    why: "uncertain", "shrunk" or "always". first, second: margins of the two looks, in logits; of several second ones
    the largest; None: there was none. box: x0, y0, x1, y1 in pixels of the file's upright picture; None: no part of it
    was chosen. sharpness: how much that part stood out. skipped: why there was no second look: CAP, "diffuse" (nothing
    stood out), "whole" (all of it did), "enough" (the first look saw all there is); None: there was one. tokens: visual
    tokens beyond those of the first look. look, method: as the check's crop table has them; method None: not pointed.
    """

    why: str
    first: float
    second: float | None = None
    box: tuple[int, int, int, int] | None = None
    sharpness: float | None = None
    skipped: str | None = None
    tokens: int = 0
    look: str
    method: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the image got all the looks that were due."""
        return self.skipped != CAP

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"box": None if self.box is None else list(self.box)}

    @classmethod
    def read(cls, held: Mapping[str, Any] | None) -> CropResult | None:
        """What `record` wrote."""
        if held is None:
            return None
        box = held["box"]
        return cls(**{**held, "box": None if box is None else (box[0], box[1], box[2], box[3])})


FIELDS = tuple(field.name for field in fields(CropResult))
