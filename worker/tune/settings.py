"""One way of answering a check: what the search moves, and what becomes of it in a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.crops.wording import PLAIN
from models.types import Question
from scanfleet.checks import Check
from scanfleet.crops import CropSettings
from scanfleet.errors import BadCheck


@dataclass(frozen=True, kw_only=True)
class First:
    """How the first look reads. words: name of the prompt variant. max_pixels: its pixel budget."""

    words: str
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A first look, and whether and how there is a second one."""

    first: First
    crop: CropSettings | Literal["never"] = "never"

    def in_words(self) -> str:
        """`words stepwise, first look 400x400; second look pair by rel-att, ...`."""
        first = f"first look {_side(self.first.max_pixels)}"
        if self.first.words != PLAIN:
            first = f"words {self.first.words}, {first}"
        if isinstance(self.crop, str):
            return first
        return f"{first}; {_second(self.crop, self.first.max_pixels)}; when {_when(self.crop)}"

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        crop = self.crop if isinstance(self.crop, str) else self.crop.model_dump(mode="json")
        return {"words": self.first.words, "max_pixels": self.first.max_pixels, "crop": crop}


def standing(check: Check) -> Setting:
    """The check as it stands."""
    return Setting(first=First(words=PLAIN, max_pixels=check.max_pixels), crop=check.crop)


def as_check(check: Check, setting: Setting, question: Question, *, name: str) -> Check:
    """The check with a setting. question: in the setting's words. Raises BadCheck for a name that cannot be one."""
    more = {
        "name": name,
        "prompt": question.prompt,
        "descriptions": dict(question.descriptions),
        "max_pixels": setting.first.max_pixels,
        "crop": setting.crop if isinstance(setting.crop, str) else _explicit(setting.crop, setting.first.max_pixels),
    }
    try:
        return Check.model_validate(check.model_dump() | more)
    except ValueError as error:
        raise BadCheck(f"the tuned check {name!r} cannot be stored: {error}") from None


def _explicit(crop: CropSettings, max_pixels: int) -> dict[str, Any]:
    """With the budgets that it leaves open, which a check file cannot hold as nothing."""
    return crop.model_dump() | crop.budgets(max_pixels)


def _second(crop: CropSettings, max_pixels: int) -> str:
    words, budgets = [f"second look {crop.look}"], crop.budgets(max_pixels)
    if crop.look in ("pair", "crop", "reweight"):
        by = crop.method if crop.method == "grad-att" else f"{crop.method} over {crop.reference}"
        words.append(f"by {by}{', tiled' if crop.tiled else ''}")
    if crop.look == "reweight":
        words.append(f"x {crop.emphasis:g}")
    else:
        words.append(f"at {_side(budgets['crop_pixels'])}")
    if crop.look == "pair":
        words.append(f"beside {_side(budgets['context_pixels'])}")
    return f"{' '.join(words)}, fused by {crop.fuse}"


def _when(crop: CropSettings) -> str:
    parts = []
    if crop.when in ("uncertain", "uncertain-or-shrunk"):
        parts.append(f"uncertain within {crop.band:g}")
    if crop.when in ("shrunk", "uncertain-or-shrunk"):
        parts.append(f"shrunk over {crop.shrink:g}")
    return f"{' or '.join(parts) or 'always'}, at most {crop.max_extra:.0%} extra"


def _side(pixels: int) -> str:
    """A budget as the square that it holds.

    >>> _side(448 * 448)
    '448x448'
    """
    side = round(pixels**0.5)
    return f"{side}x{side}"
