"""The search space: pixel budgets as multiples of the check's, the cap as a share of the cost that is left.

Also the settings themselves: what the search varies, and how it is written into a check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scanfleet.checks.check import Check
from scanfleet.checks.crop import NEVER, CropSettings
from scanfleet.errors import BadCheck
from scanfleet.models.crops.policy import POINTED
from scanfleet.models.inputs.wording import PLAIN
from scanfleet.models.types import Order, Question


@dataclass(frozen=True, kw_only=True)
class FirstPass:
    """words: name of the prompt variant. max_pixels: pixel budget of the first pass. order: None: as now."""

    words: str
    max_pixels: int
    order: Order | None = None


@dataclass(frozen=True, kw_only=True)
class CheckSetting:
    """A first pass, and the crop pass if there is one."""

    first: FirstPass
    crop: CropSettings | Literal["never"] = "never"

    def in_words(self) -> str:
        """`words stepwise, first pass 400x400; crop pass: pair by rel-att, ...`."""
        first = f"first pass {_side(self.first.max_pixels)}"
        if self.first.words != PLAIN:
            first = f"words {self.first.words}, {first}"
        if self.first.order is not None:
            first = f"{self.first.order}, {first}"
        if isinstance(self.crop, str):
            return first
        return f"{first}; {_crop_in_words(self.crop, self.first.max_pixels)}; when {_when(self.crop)}"

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        crop = self.crop if isinstance(self.crop, str) else self.crop.model_dump(mode="json")
        order = {} if self.first.order is None else {"order": self.first.order}
        return {"words": self.first.words, "max_pixels": self.first.max_pixels, "crop": crop, **order}


def current_setting(check: Check) -> CheckSetting:
    return CheckSetting(first=FirstPass(words=PLAIN, max_pixels=check.max_pixels), crop=check.crop)


def as_check(check: Check, setting: CheckSetting, question: Question, *, name: str) -> Check:
    """The check with a setting. question: in the prompt of the setting. Raises BadCheck for an invalid name."""
    more = {
        "name": name,
        "prompt": question.prompt,
        "descriptions": dict(question.descriptions),
        "max_pixels": setting.first.max_pixels,
        "order": setting.first.order or check.order,
        "crop": setting.crop if isinstance(setting.crop, str) else _explicit(setting.crop, setting.first.max_pixels),
    }
    try:
        return Check.model_validate(check.model_dump() | more)
    except ValueError as error:
        raise BadCheck(f"the tuned check {name!r} cannot be stored: {error}") from None


def _explicit(crop: CropSettings, max_pixels: int) -> dict[str, Any]:
    """With every budget filled in: a check file cannot hold an open one."""
    return crop.model_dump() | crop.budgets(max_pixels)


def _crop_in_words(crop: CropSettings, max_pixels: int) -> str:
    words, budgets = [f"crop pass: {crop.look}"], crop.budgets(max_pixels)
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
    """A pixel budget as a square.

    >>> _side(448 * 448)
    '448x448'
    """
    side = round(pixels**0.5)
    return f"{side}x{side}"


FIRST_BUDGETS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times the check's
SECOND_BUDGETS = (0.25, 0.5, 1.0, 2.0)  # likewise: of a crop, a tile, or the larger image
CONTEXT_BUDGETS = (0.25, 0.5, 1.0)  # likewise: of the original beside a crop
WHEN = (NEVER, "uncertain", "shrunk", "uncertain-or-shrunk", "always")
LOOKS = ("pair", "crop", "larger", "tiles", "adapted", "reweight")
METHODS = ("rel-att", "grad-att", "pure-grad")
BANDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # logits
SHRINKS = (1.25, 1.5, 2.0, 3.0)
EMPHASES = (1.5, 2.0)
FUSES = ("mean", "max", "second")
SHARES = (0.25, 0.5, 1.0)  # of the cost that is left for crop passes
MIN_EXTRA = 0.02  # of the tokens of first passes; less is treated as none
MIN_PIXELS = 28 * 28  # as in `scanfleet.checks.check`

# Tried first: each kind of crop pass in its cheapest form, with the whole cost that is left.
_POINTED = {"method": "rel-att", "reference": "blank", "tiled": False, "share": 1.0, "fuse": "mean"}
OWN, OTHER = "own", "other"  # order
_BEGIN = {"words": PLAIN, "budget": 1.0, "order": OWN}
FIRST_TRIALS: tuple[Mapping[str, Any], ...] = (
    {**_BEGIN, "when": "never"},
    {**_BEGIN, "order": OTHER, "when": "never"},
    {**_BEGIN, "when": "always", "look": "crop", "second": 0.5, **_POINTED},
    {**_BEGIN, "when": "always", "look": "crop", "second": 1.0, **_POINTED},
    {**_BEGIN, "when": "uncertain", "band": 0.5, "look": "pair", "second": 0.5, "context": 0.25, **_POINTED},
    {**_BEGIN, "when": "always", "look": "larger", "second": 2.0, "share": 1.0, "fuse": "second"},
)


class Trial(Protocol):
    """The part of Optuna's trials that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class FixedParts:
    """Parts of a setting that stay, because an adapter was trained on them."""

    words: bool = False
    budget: bool = False


@dataclass(frozen=True, kw_only=True)
class Space:
    """words, budgets: choices for the first pass; one of each if an adapter was trained on it.

    other_order: The order that the check does not have now; None: an adapter was trained on its own.
    headroom: cost that the limit leaves for crop passes after a first pass, as a share of its tokens. Negative: the
    first pass alone exceeds the limit.
    """

    check: Check
    words: tuple[str, ...]
    budgets: tuple[float, ...]
    other_order: Order | None = None
    headroom: Callable[[FirstPass], float]

    def suggest(self, trial: Trial) -> CheckSetting | str:
        """A setting, or the reason why the suggestion is not a valid one."""
        words = _one(trial, "words", self.words)
        budget = _one(trial, "budget", self.budgets)
        turned = self.other_order is not None and _one(trial, "order", (OWN, OTHER)) == OTHER
        first = FirstPass(
            words=words,
            max_pixels=max(MIN_PIXELS, self.check.min_pixels or 0, round(budget * self._pixels)),
            order=self.other_order if turned else None,
        )
        headroom = self.headroom(first)
        if headroom < 0:
            return f"the first pass alone at {budget:g} times the pixels is over the cost limit"
        when = _one(trial, "when", WHEN)
        if when == NEVER:
            return CheckSetting(first=first)
        share = _one(trial, "share", SHARES)
        most = int(share * headroom * 100) / 100  # rounded down, to stay within the limit
        if most < MIN_EXTRA:
            return "the cost limit leaves nothing for crop passes"
        crop = CropSettings(when=when, max_extra=min(most, 100.0), **self._crop_pass(trial, when))
        return crop.idle(first.max_pixels) or CheckSetting(first=first, crop=crop)

    @property
    def _pixels(self) -> int:
        return self.check.max_pixels

    def _crop_pass(self, trial: Trial, when: str) -> dict[str, Any]:
        """Fields that do not apply keep their default, so that equivalent settings are equal."""
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
        return max(MIN_PIXELS, round(_one(trial, name, shares) * self._pixels))


def first_budgets(*, limit: float, fixed: bool) -> tuple[float, ...]:
    """The budgets that the limit allows; the check's own if it is fixed."""
    return (1.0,) if fixed else tuple(budget for budget in FIRST_BUDGETS if budget <= max(limit, 1.0))


def _one(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    """A suggestion; with one choice Optuna is not asked."""
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)
