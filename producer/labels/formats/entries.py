"""The entries that readers make of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from scanfleet.producer.labels.formats.problems import MAX_PROBLEMS as MAX_PROBLEMS
from scanfleet.producer.labels.formats.problems import Problems as Problems
from scanfleet.producer.labels.formats.problems import Reason as Reason
from scanfleet.producer.sources.manifest import MalformedLineError

MAX_FILE_BYTES = 512 << 20  # of a file that is read into memory
MAX_TEXT = 2000  # characters of a label, a name, a note
MAX_ATTRIBUTES = 100  # of an image or a box

Attributes = dict[str, str]
Unit = Literal["pixels", "share"]
Size = tuple[float, float]  # width, height


@dataclass(frozen=True, kw_only=True, slots=True)
class RawBox:
    """A box as written in a file. unit "share": of width and height, 0 to 1."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    unit: Unit = "pixels"
    attributes: Attributes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
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
    attributes: Attributes | None = None
    blank: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Names of a file's columns, and the place of its images.

    images: the folder that relative names start at; None: a bucket. label_named: a person named the label column.
    control: the control of a Label Studio project that holds the label; None: the only one. attributes: columns of a
    table that are kept as attributes of the image. endpoint: of the S3 server, to tell its addresses.
    """

    uri: str = "uri"
    label: str = "label"
    label_named: bool = False
    group: str | None = None
    control: str | None = None
    attributes: tuple[str, ...] = ()
    endpoint: str | None = None
    images: Path | None = None


@dataclass
class Regions:
    """The regions of one image, as they are read. A box that is not valid is dropped, but not its label."""

    problems: Problems
    boxes: list[RawBox] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(
        self, where: str, label: str, box: Callable[[], RawBox | None], attributes: Attributes | None = None
    ) -> None:
        """Keep what `box` returns. It returns None if the region has no box, and raises MalformedLineError."""
        try:
            found = box()
        except MalformedLineError as error:
            self.problems.leave_out(where, str(error), Reason.BOX)
            self.dropped.append(label)
            return
        if found is None:
            self.bare.append(label)
        else:
            self.boxes.append(replace(found, attributes=attributes) if attributes else found)

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
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python reads 1_0 as 10
        raise MalformedLineError(f"{what} is not a number: {value[:40]!r}")
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
    if not all(map(math.isfinite, sides)):
        raise MalformedLineError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} has no end")
    if x1 <= x0 or y1 <= y0:
        raise MalformedLineError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} has no area: give left, top, right, bottom")
    if unit == "pixels" and x1 <= 1 and y1 <= 1:
        raise MalformedLineError(
            f"the box {x0:g} {y0:g} {x1:g} {y1:g} is in shares of the image, or one pixel: give pixels"
        )
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


def attributes_of(value: object, where: str, problems: Problems) -> Attributes | None:
    """Return names and texts of an object. A value that is no text, number or list of them is left out and told."""
    if value is None or value == "" or value == []:
        return None
    if not isinstance(value, dict) or len(value) > MAX_ATTRIBUTES:
        problems.leave_out(where, f"attributes are not an object of at most {MAX_ATTRIBUTES}", Reason.ATTRIBUTE)
        return None
    found: Attributes = {}
    for name, one in value.items():
        try:
            text = ", ".join(_word(word, str(name)) for word in (one if isinstance(one, list) else [one]))
            text = text_of(text, f"attribute {name}") or ""
            if text:
                found[required(name, "name of an attribute")] = text
        except MalformedLineError as error:
            problems.leave_out(where, str(error), Reason.ATTRIBUTE)
    return found or None


def _word(value: object, name: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    raise MalformedLineError(f"attribute {name} is neither text nor a number")
