"""The result of a crop pass, as the ledger holds it beside a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CAP = "cap"  # skipped: the token budget of crop passes was spent on less certain images


@dataclass(frozen=True, kw_only=True)
class CropResult:
    """The crop pass of an image that the check's gate selected.

    why: "uncertain", "shrunk" or "always". first, second: margins of the first pass and of the crop pass, in logits; of
    several crops the largest; None: there was none. box: x0, y0, x1, y1 in pixels of the file's upright picture; None:
    no region was chosen. sharpness: how much the region stood out. skipped: why there was no crop pass: CAP, "diffuse"
    (nothing stood out), "whole" (all of it did), "enough" (the first pass read all pixels); None: there was one.
    tokens: visual tokens beyond those of the first pass. look, method: as in the check's crop table; method None: no
    region is sought.
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
        """True unless the token budget prevented a crop pass that was due."""
        return self.skipped != CAP

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"box": None if self.box is None else list(self.box)}

    @classmethod
    def read(cls, held: Mapping[str, Any] | None) -> CropResult | None:
        """Read the values written by `record`."""
        if held is None:
            return None
        box = held["box"]
        return cls(**{**held, "box": None if box is None else (box[0], box[1], box[2], box[3])})


FIELDS = tuple(field.name for field in fields(CropResult))
