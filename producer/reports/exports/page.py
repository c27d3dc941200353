"""A page of results as columns: what is read of its JSON, and the fields of its manifests apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.explanation import Explanation
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.results.pages import EXACT_IN_REAL, INT64, Columns, ManifestField

Values = Sequence[Any]  # one for each image of a page


@dataclass(frozen=True, kw_only=True)
class MetaColumn:
    """The column of a field of manifests. kind: text (of other values their JSON), integer, real or boolean."""

    name: str
    field: str
    kind: str

    @classmethod
    def of(cls, field: ManifestField, name: str) -> MetaColumn:
        return cls(name=name, field=field.name, kind=_kind(field.kinds))


def _kind(kinds: frozenset[str]) -> str:
    """Return the kind that holds all values exactly."""
    if kinds == {"boolean"}:
        return "boolean"
    if kinds and kinds <= {"integer", "long"}:
        return "integer"
    return "real" if "real" in kinds and kinds <= {"integer", "real"} else "text"


class Page:
    """columns: of the manifests' fields; the others stay together in `rest`."""

    def __init__(self, raw: Columns, columns: Sequence[MetaColumn]) -> None:
        self.raw = raw
        self.n = len(raw["image_id"])
        self._columns = columns

    def take(self, numbers: Sequence[int]) -> Page:
        """Return a page of some images."""
        return Page({name: [values[number] for number in numbers] for name, values in self.raw.items()}, self._columns)

    def parsed(self, name: str) -> Values:
        """Return the values of a column of JSON, read as one list, which takes a third of the time."""
        texts = self.raw[name]
        return json.loads(f"[{','.join([text or 'null' for text in texts])}]") if any(texts) else self.nothing

    @cached_property
    def nothing(self) -> Values:
        return (None,) * self.n

    @cached_property
    def crop(self) -> Sequence[CropResult | None]:
        return self._each("crop", CropResult.read)

    @cached_property
    def frames(self) -> Sequence[FrameResult | None]:
        return self._each("frames", FrameResult.read)

    @cached_property
    def explanation(self) -> Sequence[Explanation | None]:
        return self._each("explanation", Explanation.read)

    def _each(self, name: str, read: Callable[[Any], Any]) -> Values:
        held = self.parsed(name)
        return held if held is self.nothing else [read(each) for each in held]

    @property
    def meta(self) -> Mapping[str, Values]:
        """Values of each column of the manifests, by field."""
        return self._meta[0]

    @property
    def rest(self) -> Sequence[dict[str, Any] | None]:
        """Fields without a column, and values that their column cannot hold: both came after the columns were found."""
        return self._meta[1]

    @cached_property
    def _meta(self) -> tuple[dict[str, Values], list[dict[str, Any] | None]]:
        held: list[dict[str, Any]] = [each or {} for each in self.parsed("meta")]
        known = {column.field for column in self._columns}
        rest: list[dict[str, Any] | None] = [
            None if each.keys() <= known else {name: value for name, value in each.items() if name not in known}
            for each in held
        ]
        found: dict[str, Values] = {}
        for column in self._columns:
            values = [each.get(column.field) for each in held]
            if not _hold(column.kind, values):
                for number, value in enumerate(values):
                    if not _hold(column.kind, (value,)):
                        values[number], rest[number] = None, (rest[number] or {}) | {column.field: value}
            found[column.field] = values
        return found, rest


def _whole(values: Values, within: range) -> bool:
    numbers = [value for value in values if type(value) is int]
    return not numbers or (min(numbers) in within and max(numbers) in within)


_HOLD: dict[str, Callable[[Values], bool]] = {
    "boolean": lambda values: {*map(type, values)} <= {bool, type(None)},
    "integer": lambda values: {*map(type, values)} <= {int, type(None)} and _whole(values, INT64),
    "real": lambda values: (
        {*map(type, values)} <= {int, float, type(None)} and _whole(values, range(-EXACT_IN_REAL, EXACT_IN_REAL + 1))
    ),
}


def _hold(kind: str, values: Values) -> bool:
    return kind == "text" or _HOLD[kind](values)
