"""The settings that can be tried: budgets in shares of the check's, the cap in shares of what the limit leaves.

One way of answering a check: what the search moves, and what becomes of it in a check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from models.crops.policy import POINTED
from models.inputs.wording import PLAIN
from models.types import Question
from scanfleet.checks.check import Check
from scanfleet.checks.crop import NEVER, CropSettings
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


FIRST_BUDGETS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times the check's
SECOND_BUDGETS = (0.25, 0.5, 1.0, 2.0)  # likewise: of a crop, a tile, a larger look
CONTEXT_BUDGETS = (0.25, 0.5, 1.0)  # likewise: of the original beside a crop
WHEN = (NEVER, "uncertain", "shrunk", "uncertain-or-shrunk", "always")
LOOKS = ("pair", "crop", "larger", "tiles", "adapted", "reweight")
METHODS = ("rel-att", "grad-att", "pure-grad")
BANDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # logits
SHRINKS = (1.25, 1.5, 2.0, 3.0)
EMPHASES = (1.5, 2.0)
FUSES = ("mean", "max", "second")
SHARES = (0.25, 0.5, 1.0)  # of the cost that is left for second looks
LEAST_EXTRA = 0.02  # of the first looks' tokens; less is none
SMALLEST = 28 * 28  # pixels, as `scanfleet.checks.check` has it

# Tried before the search knows anything: each kind of look in its cheapest form, and all that the limit leaves for it.
_POINTED = {"method": "rel-att", "reference": "blank", "tiled": False, "share": 1.0, "fuse": "mean"}
_BEGIN = {"words": PLAIN, "budget": 1.0}
BEGINNINGS: tuple[Mapping[str, Any], ...] = (
    {**_BEGIN, "when": "never"},
    {**_BEGIN, "when": "always", "look": "crop", "second": 0.5, **_POINTED},
    {**_BEGIN, "when": "always", "look": "crop", "second": 1.0, **_POINTED},
    {**_BEGIN, "when": "uncertain", "band": 0.5, "look": "pair", "second": 0.5, "context": 0.25, **_POINTED},
    {**_BEGIN, "when": "always", "look": "larger", "second": 2.0, "share": 1.0, "fuse": "second"},
)


class Trial(Protocol):
    """What is used of optuna's trials."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is not moved, because an adapter was trained on it."""

    words: bool = False
    budget: bool = False


@dataclass(frozen=True, kw_only=True)
class Space:
    """words, budgets: of first looks that may be tried; one of each where an adapter was trained on them.

    room: of a first look, how much second looks may cost before the limit is reached, as a share of its own tokens;
    negative: it is too expensive by itself.
    """

    check: Check
    words: tuple[str, ...]
    budgets: tuple[float, ...]
    room: Callable[[First], float]

    def suggest(self, trial: Trial) -> Setting | str:
        """A setting, or why what was suggested cannot be one."""
        words = _one(trial, "words", self.words)
        budget = _one(trial, "budget", self.budgets)
        first = First(words=words, max_pixels=max(SMALLEST, self.check.min_pixels, round(budget * self._pixels)))
        room = self.room(first)
        if room < 0:
            return f"the first look alone at {budget:g} times the pixels is over the cost limit"
        when = _one(trial, "when", WHEN)
        if when == NEVER:
            return Setting(first=first)
        share = _one(trial, "share", SHARES)
        most = int(share * room * 100) / 100  # never rounded up: it keeps the limit
        if most < LEAST_EXTRA:
            return "the cost limit leaves nothing for second looks"
        crop = CropSettings(when=when, max_extra=min(most, 100.0), **self._second(trial, when))
        return crop.idle(first.max_pixels) or Setting(first=first, crop=crop)

    @property
    def _pixels(self) -> int:
        return self.check.max_pixels

    def _second(self, trial: Trial, when: str) -> dict[str, Any]:
        """Fields that have no meaning keep their default, so that equal settings are equal."""
        found: dict[str, Any] = {}
        if "uncertain" in when:
            found["band"] = _one(trial, "band", BANDS)
        if "shrunk" in when:
            found["shrink"] = _one(trial, "shrink", SHRINKS)
        look = found["look"] = _one(trial, "look", LOOKS)
        if look in POINTED:
            found |= self._pointing(trial)
        if look == "reweight":
            found["emphasis"] = _one(trial, "emphasis", EMPHASES)
        else:
            found["crop_pixels"] = self._budget(trial, "second", SECOND_BUDGETS)
        if look == "pair":
            found["context_pixels"] = self._budget(trial, "context", CONTEXT_BUDGETS)
        return found | {"fuse": _one(trial, "fuse", FUSES)}

    def _pointing(self, trial: Trial) -> dict[str, Any]:
        method = _one(trial, "method", METHODS)
        reference = {} if method == "grad-att" else {"reference": _one(trial, "reference", ("blank", "generic"))}
        layers = () if isinstance(self.check.crop, str) else self.check.crop.layers
        return {"method": method, "tiled": _one(trial, "tiled", (False, True)), "layers": layers, **reference}

    def _budget(self, trial: Trial, name: str, shares: Sequence[float]) -> int:
        return max(SMALLEST, round(_one(trial, name, shares) * self._pixels))


def first_budgets(*, limit: float, fixed: bool) -> tuple[float, ...]:
    """Those that a limit does not rule out from the start; the check's own where it is fixed."""
    return (1.0,) if fixed else tuple(budget for budget in FIRST_BUDGETS if budget <= max(limit, 1.0))


def _one(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    """Without asking where there is no choice."""
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)
