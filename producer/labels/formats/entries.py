"""The entries that readers make of a file, and the problems they collect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from producer.sources.manifest import MalformedLineError
from scanfleet.config.validation import printable
from scanfleet.errors import BadLabels

SHOWN_PROBLEMS = 5
MAX_PROBLEMS = 1000  # a file with more has another format
MAX_FILE_BYTES = 512 << 20  # of a file that is read into memory
MAX_TEXT = 2000  # characters of a label, a name, a note

Unit = Literal["pixels", "share"]


@dataclass(frozen=True, kw_only=True)
class RawBox:
    """A box as written in a file. unit "share": of width and height, 0 to 1."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    unit: Unit = "pixels"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image in a file of labels.

    where: line or entry, for messages. uri: as written. label None: it follows from the boxes; without boxes, nothing
    was found in the image. boxes None: none were given. blank: a row whose label nobody filled in.
    """

    where: str
    uri: str
    label: str | None
    boxes: tuple[RawBox, ...] | None = None
    who: str | None = None
    group: str | None = None
    note: str | None = None
    drawn: str | None = None
    blank: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Names of a file's columns, and the place of its images.

    images: the folder that relative names start at; None: a bucket.
    """

    label: str = "label"
    group: str | None = None
    images: Path | None = None


@dataclass
class Problems:
    """Collects the problems of a file, to report them all at once. ending: the consequence, for the message."""

    name: str
    found: list[str] = field(default_factory=list)
    ending: str = "nothing was written"

    def add(self, where: str, words: str) -> None:
        """Raises BadLabels after MAX_PROBLEMS."""
        self.found.append(f"{where}: {printable(words)}")
        if len(self.found) >= MAX_PROBLEMS:
            self.raise_any()

    def raise_any(self) -> None:
        """Raises BadLabels if anything was found."""
        if not self.found:
            return
        first, n = self.found[:SHOWN_PROBLEMS], len(self.found)
        more = f"; and {n - len(first)} more" if n > len(first) else ""
        some = f"{n} problems: " if n > 1 else ""
        raise BadLabels(f"{self.name}: {some}{'; '.join(first)}{more}; {self.ending}")


Reader = Callable[[Path, Options, Problems], list[Entry]]


def text_of(value: object, what: str, *, default: str | None = None) -> str | None:
    """Return stripped text that any database can store; None or `default` if empty. Raises MalformedLineError."""
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedLineError(f"{what} is not text")
    text = str(value).strip()
    if len(text) > MAX_TEXT:
        raise MalformedLineError(f"{what} has {len(text)} characters; the limit is {MAX_TEXT}")
    if "\0" in text:
        raise MalformedLineError(f"{what} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedLineError(f"{what} contains half of a surrogate pair, which is not text") from None
    return text or default


def required(value: object, what: str) -> str:
    """Return non-empty text. Raises MalformedLineError."""
    text = text_of(value, what)
    if text is None:
        raise MalformedLineError(f"{what} is missing")
    return text


def number_of(value: object, what: str) -> float:
    """Return a finite number, also from text. Raises MalformedLineError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MalformedLineError(f"{what} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise MalformedLineError(f"{what} is not a number: {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise MalformedLineError(f"{what} is {number}")
    return number


def box_of(sides: tuple[float, float, float, float], label: str, *, unit: Unit = "pixels") -> RawBox:
    """Return a box. Raises MalformedLineError if it has no area."""
    x0, y0, x1, y1 = sides
    if x1 <= x0 or y1 <= y0:
        raise MalformedLineError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} has no area: give left, top, right, bottom")
    return RawBox(x0=x0, y0=y0, x1=x1, y1=y1, label=label, unit=unit)
