"""The crop pass of a check: which images get one, how they are read, and the token budget."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from scanfleet.config.validation import nearest

NEVER = "never"
When = Literal["uncertain", "shrunk", "uncertain-or-shrunk", "always"]
MODES: tuple[str, ...] = (NEVER, "uncertain", "shrunk", "uncertain-or-shrunk", "always")
SMALLEST_BUDGET = 28 * 28  # pixels
CONTEXT_SHARE = 0.25  # of the first pass's budget: the first pass has read the original in full already
ADAPTED_LEAST = 1.25  # times the first pass's budget; below it `adapted` never reads more


class CropSettings(BaseModel):
    """`[crop]` of a check file; `crop = "uncertain"` and so on is short for its defaults.

    when: "uncertain": the first pass's margin lies between the thresholds for clear and flag, or within `band` logits
        of one; "shrunk": the model read an image whose sides were divided by more than `shrink`.
    max_extra: visual tokens of all crop passes together, as a share of those of the first passes, in every batch and
        so in every scan; the least certain images come first.
    look, method, reference, tiled, crop_pixels, context_pixels, layers, emphasis, fuse: `models.crops.policy`.
        Budgets that are left open: `budgets`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: When = "uncertain"
    band: float = Field(default=0.5, ge=0, le=20)  # logits
    shrink: float = Field(default=1.5, ge=1, le=100)  # times, along a side
    max_extra: float = Field(default=1.5, gt=0, le=100)  # a pair with both budgets open takes 1.25
    look: Literal["pair", "crop", "larger", "tiles", "adapted", "reweight"] = "pair"
    method: Literal["rel-att", "grad-att", "pure-grad"] = "rel-att"
    reference: Literal["generic", "blank"] = "blank"
    tiled: bool = False
    crop_pixels: int | None = Field(default=None, ge=SMALLEST_BUDGET, le=16_777_216)
    context_pixels: int | None = Field(default=None, ge=SMALLEST_BUDGET, le=16_777_216)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()  # empty: the middle third
    emphasis: float = Field(default=1.5, ge=1, le=10)  # times
    fuse: Literal["mean", "max", "second"] = "mean"

    def budgets(self, max_pixels: int) -> dict[str, int]:
        """Return crop_pixels and context_pixels for a first pass under `max_pixels`.

        Left open, the crop has as many as the first pass, and the original beside it a quarter of them.
        """
        context = max(SMALLEST_BUDGET, round(CONTEXT_SHARE * max_pixels))
        return {"crop_pixels": self.crop_pixels or max_pixels, "context_pixels": self.context_pixels or context}

    def idle(self, max_pixels: int) -> str | None:
        """Return why this crop pass would add nothing to a first pass under `max_pixels`, with advice; None: it may."""
        budget = self.budgets(max_pixels)["crop_pixels"]
        if self.look == "larger" and budget == max_pixels:
            return f"larger reads the same again: set crop_pixels, other than max_pixels ({max_pixels})"
        if self.look == "adapted" and budget < ADAPTED_LEAST * max_pixels:
            least = math.ceil(ADAPTED_LEAST * max_pixels)
            return f"adapted never reads more: set crop_pixels, to {least} or more ({ADAPTED_LEAST:g} times max_pixels)"
        return None


_WORDS = f"must be {', '.join(MODES[:-1])} or {MODES[-1]}"


def _short(value: object) -> object:
    """Expand a mode into a table. Raises PydanticCustomError for an unknown mode or another type."""
    if isinstance(value, str):
        if value not in MODES:
            near = nearest(value, MODES)
            raise PydanticCustomError("crop_word", _WORDS + ("" if near is None else f" (did you mean {near}?)"))
        return value if value == NEVER else {"when": value}
    if isinstance(value, Mapping) and value.get("when") == NEVER:
        raise PydanticCustomError("crop_never", 'for no crop pass write crop = "never", without a table')
    if not isinstance(value, Mapping | CropSettings):
        raise PydanticCustomError("crop_kind", f"{_WORDS}, or a table [crop]")
    return value


def _kind(value: object) -> str:
    return NEVER if isinstance(value, str) else "table"


CropField = Annotated[
    Annotated[Literal["never"], Tag(NEVER)] | Annotated[CropSettings, Tag("table")],
    Discriminator(_kind),
    BeforeValidator(_short),
]


def crop_text(crop: Literal["never"] | CropSettings, *, band: Mapping[str, Any] | None = None) -> str:
    """Return the text in a scorer's row: "never", or the settings as canonical JSON.

    band: the margins between which a first pass is uncertain. They are not part of the settings, but decide which
    images get a crop pass.
    """
    if isinstance(crop, str):
        return crop
    body = crop.model_dump(mode="json") | ({} if band is None else {"uncertain": dict(band)})
    return json.dumps(body, sort_keys=True)


def crop_field(inside: tuple[int | str, ...]) -> tuple[str, tuple[int | str, ...]]:
    """Pydantic's place below `crop`, ("table", "layers", 0), as a field and what is inside it: crop.layers, (0,)."""
    return (f"crop.{inside[1]}", inside[2:]) if len(inside) > 1 else ("crop", ())


def table_line(lines: Sequence[str], field: str) -> int | None:
    """Return the line (from 1) that sets crop.band, in whatever way, else that of the table; None: there is none."""
    table, _, name = field.partition(".")
    key = re.escape(name)
    found, within = None, False
    for at, line in enumerate(lines, start=1):
        header = re.match(r"\s*\[\s*[\"']?(.*?)[\"']?\s*\]\s*(#.*)?$", line)
        if header:
            within = header[1] == table
        if within and found is not None and re.match(rf"\s*[\"']?{key}[\"']?\s*=", line):
            return at
        if re.match(rf"\s*[\"']?{table}[\"']?\s*\.\s*[\"']?{key}[\"']?\s*=", line):
            return at
        if found is None and (within or re.match(rf"\s*[\"']?{table}[\"']?\s*[=.]", line)):
            found = at
    return found
