"""The entries that readers make of a file, and the problems they collect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from producer.sources.manifest import MalformedLineError
from scanfleet.config.validation import printable
from scanfleet.errors import BadLabels

SHOWN_PROBLEMS = 5
MAX_PROBLEMS = 1000  # a file with more has another format
MAX_FILE_BYTES = 512 << 20  # of a file that is read into memory
MAX_TEXT = 2000  # characters of a label, a name, a note

Unit = Literal["pixels", "share"]
Size = tuple[float, float]  # width, height


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
    was found in the image. boxes None: none were given. blank: a row whose label nobody filled in. size: of the image
    when it was labelled. regions: labels of regions that have no box. dropped: labels of boxes that were left out.
    """

    where: str
    uri: str
    label: str | None
    boxes: tuple[RawBox, ...] | None = None
    regions: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    size: Size | None = None
    who: str | None = None
    group: str | None = None
    note: str | None = None
    drawn: str | None = None
    blank: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Names of a file's columns, and the place of its images.

    images: the folder that relative names start at; None: a bucket. label_named: a person named the label column.
    control: the control of a Label Studio project that holds the label; None: the only one.
    """

    uri: str = "uri"
    label: str = "label"
    label_named: bool = False
    group: str | None = None
    control: str | None = None
    images: Path | None = None


@dataclass
class Problems:
    """Collects the problems of a file, to report them all at once. ending: the consequence, for the message.

    A problem that concerns one image or box leaves that out, unless `strict`; any other refuses the file.
    """

    name: str
    found: list[str] = field(default_factory=list)
    ending: str = "nothing was written"
    strict: bool = True
    left_out: list[str] = field(default_factory=list)

    def add(self, where: str, words: str) -> None:
        """Raises BadLabels after MAX_PROBLEMS."""
        self.found.append(f"{where}: {printable(words)}")
        if len(self.found) >= MAX_PROBLEMS:
            self.raise_any()

    def leave_out(self, where: str, words: str) -> None:
        """Note an image or a box that is left out. Raises BadLabels if strict, after MAX_PROBLEMS."""
        if self.strict:
            self.add(where, words)
        else:
            self.left_out.append(f"{where}: {printable(words)}")

    def raise_any(self) -> None:
        """Raises BadLabels if anything was found."""
        if self.found:
            raise BadLabels(f"{self.name}: {_first(self.found)}; {self.ending}")

    def require_some(self, left: Iterable[object]) -> None:
        """Raises BadLabels if everything was left out."""
        if self.left_out and not any(True for _ in left):
            raise BadLabels(f"{self.name}: no label is left: {_first(self.left_out)}; {self.ending}")


def _first(found: list[str]) -> str:
    more = f"; and {len(found) - SHOWN_PROBLEMS} more" if len(found) > SHOWN_PROBLEMS else ""
    some = f"{len(found)} problems: " if len(found) > 1 else ""
    return f"{some}{'; '.join(found[:SHOWN_PROBLEMS])}{more}"


@dataclass
class Regions:
    """The regions of one image, as they are read. A box that is not valid is dropped, but not its label."""

    problems: Problems
    boxes: list[RawBox] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(self, where: str, label: str, box: Callable[[], RawBox | None]) -> None:
        """Keep what `box` returns. It returns None if the region has no box, and raises MalformedLineError."""
        try:
            found = box()
        except MalformedLineError as error:
            self.problems.leave_out(where, str(error))
            self.dropped.append(label)
            return
        if found is None:
            self.bare.append(label)
        else:
            self.boxes.append(found)

    def fields(self) -> dict[str, Any]:
        """Return the fields of an entry."""
        return {"boxes": tuple(self.boxes), "regions": tuple(self.bare), "dropped": tuple(self.dropped)}


Reader = Callable[[Path, Options, Problems], list[Entry]]


def text_of(value: object, what: str, *, default: str | None = None) -> str | None:
    """Return stripped text that any database can store; None or `default` if empty. Raises MalformedLineError."""
    text = _storable(value, what)
    return (text and text.strip()) or default


def _storable(value: object, what: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedLineError(f"{what} is not text")
    text = str(value)
    if len(text) > MAX_TEXT:
        raise MalformedLineError(f"{what} has {len(text)} characters; the limit is {MAX_TEXT}")
    if "\0" in text:
        raise MalformedLineError(f"{what} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedLineError(f"{what} contains half of a surrogate pair, which is not text") from None
    return text


def name_of(value: object, what: str) -> str:
    """Return the name of a file as it is written, with the spaces at its ends. Raises MalformedLineError."""
    text = _storable(value, what)
    if text is None or not text.strip():
        raise MalformedLineError(f"{what} is missing")
    return text


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


def bounds(points: Iterable[tuple[float, float]], label: str, *, unit: Unit = "pixels") -> RawBox:
    """Return the straight box around a shape. Raises MalformedLineError if it has no area."""
    xs, ys = zip(*points, strict=True)
    return box_of((min(xs), min(ys), max(xs), max(ys)), label, unit=unit)


def size_of(width: object, height: object) -> Size | None:
    """Return the size that a file states. Some tools write 0 where they do not know it."""
    try:
        size = number_of(width, "width"), number_of(height, "height")
    except MalformedLineError:
        return None
    return size if min(size) > 0 else None
