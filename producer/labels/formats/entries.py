"""What every reader turns a file into, and where it puts what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from producer.sources.manifest import MalformedLineError
from scanfleet.config.validation import one_line
from scanfleet.errors import BadLabels

SHOWN_FAULTS = 5
MAX_FAULTS = 1000  # after that a file is of another kind than it was taken for
MAX_FILE_BYTES = 512 << 20  # of a file that is read as a whole
MAX_TEXT = 2000  # letters of a label, a name, a note

Unit = Literal["pixels", "share"]


@dataclass(frozen=True, kw_only=True)
class RawBox:
    """Where something is, in the file's words. unit "share": of width and height, 0 to 1."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    unit: Unit = "pixels"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of a file of labels.

    where: line or entry, for messages. uri: as written. label None: follows from the boxes; without any, nothing was
    found in the image. boxes None: nobody said where. blank: a row for a label that nobody filled in.
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
    """What fields of a file are called, where the person said so, and where its images lie.

    images: the folder that relative names start at; None: a bucket.
    """

    label: str = "label"
    group: str | None = None
    images: Path | None = None


@dataclass
class Faults:
    """Collects what is wrong with a file, to be told all at once. ending: what did not happen because of it."""

    name: str
    found: list[str] = field(default_factory=list)
    ending: str = "nothing was written"

    def add(self, where: str, words: str) -> None:
        """Raises BadLabels where it makes no sense to read on."""
        self.found.append(f"{where}: {one_line(words)}")
        if len(self.found) >= MAX_FAULTS:
            self.raise_any()

    def raise_any(self) -> None:
        """Raises BadLabels if anything was found."""
        if not self.found:
            return
        first, n = self.found[:SHOWN_FAULTS], len(self.found)
        more = f"; and {n - len(first)} more" if n > len(first) else ""
        some = f"{n} problems: " if n > 1 else ""
        raise BadLabels(f"{self.name}: {some}{'; '.join(first)}{more}; {self.ending}")


Reader = Callable[[Path, Options, Faults], list[Entry]]


def text_of(value: object, what: str, *, default: str | None = None) -> str | None:
    """A text that every database holds, stripped; None or `default` for nothing. Raises MalformedLineError."""
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
    """Raises MalformedLineError where there is none."""
    text = text_of(value, what)
    if text is None:
        raise MalformedLineError(f"{what} is missing")
    return text


def number_of(value: object, what: str) -> float:
    """A finite number, also from a text. Raises MalformedLineError."""
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
    """Raises MalformedLineError for one without an area."""
    x0, y0, x1, y1 = sides
    if x1 <= x0 or y1 <= y0:
        raise MalformedLineError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} has no area: give left, top, right, bottom")
    return RawBox(x0=x0, y0=y0, x1=x1, y1=y1, label=label, unit=unit)
