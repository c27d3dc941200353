"""The second look of a check: when an image is looked at again, how, and for how much in all."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NEVER = "never"
When = Literal["uncertain", "shrunk", "uncertain-or-shrunk", "always"]
MODES: tuple[str, ...] = (NEVER, "uncertain", "shrunk", "uncertain-or-shrunk", "always")


class CropSettings(BaseModel):
    """`[crop]` of a check file; `crop = "uncertain"` and so on is short for its defaults.

    when: "uncertain": the first look's margin lies between the thresholds for clear and flag, or within `band` logits
        of one; "shrunk": the model read an image whose sides were divided by more than `shrink`.
    max_extra: visual tokens of all second looks together, as a share of those of the first looks, in every batch and so
        in every scan; the least certain images come first.
    look, method, reference, tiled, crop_pixels, context_pixels, layers, emphasis, fuse: `models.crops.policy`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: When = "uncertain"
    band: float = Field(default=0.5, ge=0, le=20)  # logits
    shrink: float = Field(default=1.5, ge=1, le=100)  # times, along a side
    max_extra: float = Field(default=1.0, gt=0, le=100)
    look: Literal["pair", "crop", "larger", "tiles", "adapted", "reweight"] = "pair"
    method: Literal["rel-att", "grad-att", "pure-grad"] = "rel-att"
    reference: Literal["generic", "blank"] = "blank"
    tiled: bool = False
    crop_pixels: int | None = Field(default=None, ge=28 * 28, le=16_777_216)  # None: as many as the first look's
    context_pixels: int | None = Field(default=None, ge=28 * 28, le=16_777_216)  # likewise
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()  # empty: the middle third
    emphasis: float = Field(default=1.5, ge=1, le=10)  # times
    fuse: Literal["mean", "max", "second"] = "mean"


def _short(value: object) -> object:
    """A word alone is a whole table."""
    return {"when": value} if isinstance(value, str) and value in MODES and value != NEVER else value


CropField = Annotated[Literal["never"] | CropSettings, BeforeValidator(_short)]


def crop_text(crop: Literal["never"] | CropSettings) -> str:
    """As the ledger holds it: "never", or the settings as canonical JSON."""
    return crop if isinstance(crop, str) else json.dumps(crop.model_dump(mode="json"), sort_keys=True)
