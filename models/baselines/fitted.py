"""What every baseline is given, and what it gives."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.errors import ModelInvalid

LogOdds = NDArray[np.float64]  # [pictures, names]: natural log of probabilities, up to a constant in each row

_Value = TypeVar("_Value", bool, int, float, str)


class Fitted(Protocol):
    """A baseline that was fitted."""

    def log_odds(self, pictures: Sequence[Image.Image]) -> LogOdds: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What `fit` was called with; its arguments are described there."""

    name: str
    pictures: Sequence[Image.Image]
    labels: Sequence[str]
    names: tuple[str, ...]
    seed: int
    options: Mapping[str, object]

    def __post_init__(self) -> None:
        if len(self.pictures) != len(self.labels):
            raise ModelInvalid(f"{self.name}: {len(self.pictures)} pictures with {len(self.labels)} labels")
        unknown = sorted(set(self.labels) - set(self.names))
        if unknown:
            raise ModelInvalid(f"{self.name}: label {unknown[0]!r} is none of {', '.join(self.names)}")
        if len(set(self.labels)) < 2:
            raise ModelInvalid(f"{self.name}: give pictures of two labels at least")

    @property
    def targets(self) -> NDArray[np.int64]:
        """The labels as `[pictures]` places in `names`."""
        return np.array([self.names.index(label) for label in self.labels], dtype=np.int64)

    @property
    def fewest(self) -> int:
        """Number of pictures of the rarest label."""
        return min(Counter(self.labels).values())

    def allow(self, *known: str) -> None:
        """Refuse options that the baseline does not have."""
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ModelInvalid(f"{self.name} has no option {unknown[0]!r}; it has {', '.join(known)}")

    def option(self, key: str, default: _Value) -> _Value:
        """Return an option of the default's type; a whole number passes for a fraction."""
        value: Any = self.options.get(key, default)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise ModelInvalid(f"{self.name}: option {key} = {value!r} must be a {type(default).__name__}")
        return value

    def positive(self, key: str, default: int) -> int:
        """Return an option that counts something."""
        value = self.option(key, default)
        if value < 1:
            raise ModelInvalid(f"{self.name}: option {key} = {value} must be 1 or more")
        return value


def need(module: str, *, baseline: str, extra: str = "baselines") -> ModuleType:
    """Import a package of an extra.

    Raises:
        ModelInvalid: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelInvalid(
            f"baseline {baseline} needs {error.name}: "
            f"in a clone of scanfleet run: pip install -c constraints.txt '.[{extra}]' (docs/install.md)"
        ) from error
