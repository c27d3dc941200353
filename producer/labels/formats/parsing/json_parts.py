"""Reads a JSON file part by part, in memory that does not grow with the file.

Each part is decoded by the standard library, so that it means what `json.loads` makes of it: not-a-number is accepted
here and refused where it is used. A key that an object has twice, with two values, is refused: the last would win.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from scanfleet.producer.labels.formats.parsing.files import opened
from scanfleet.producer.sources.manifest import MalformedLineError

CHUNK = 1 << 20  # bytes
MAX_PART = 64 << 20  # characters of one part: an annotation, a task
LONGEST_NUMBER = 5000  # characters: a number that ends where the text ends may go on
SPACE = re.compile(r"[ \t\n\r]*")
LISTED = -1  # the number of the part that announces a list


class Part(NamedTuple):
    """A part of the outermost value. key: of an object. number: in a list; LISTED, before its elements."""

    key: str | None
    number: int | None
    value: Any


def loads(text: str) -> Any:
    """Decode a JSON text. Raises MalformedLineError."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise MalformedLineError(f"not JSON: {error}") from None


def parts_of(path: Path) -> Iterator[Part]:
    """Yield the elements of a list, or the fields of an object with the elements of those that are lists.

    Raises MalformedLineError, SourceNotFound, AccessDenied.
    """
    with opened(path) as file:
        text = _Text(file)
        if text.next() == "[":
            yield from _elements(text, None)
        elif text.next() == "{":
            yield from _fields(text)
        else:
            yield Part(None, None, text.value())
        if text.next():
            raise text.wrong("more behind its end")


def _fields(text: _Text) -> Iterator[Part]:
    text.take("{")
    seen: set[str] = set()
    while not text.skipped("}"):
        if seen:
            text.take(",")
        key = text.value()
        if not isinstance(key, str):
            raise text.wrong("a name is missing")
        if key in seen:
            raise text.wrong(f"the key {key[:40]!r} occurs twice")
        seen.add(key)
        text.take(":")
        if text.next() == "[":
            yield Part(key, LISTED, [])
            yield from _elements(text, key)
        else:
            yield Part(key, None, text.value())


def _elements(text: _Text, key: str | None) -> Iterator[Part]:
    text.take("[")
    number = 0
    while not text.skipped("]"):
        if number:
            text.take(",")
        yield Part(key, number, text.value())
        number += 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise ValueError(f"the key {key[:40]!r} occurs twice")
    return found


class _Text:
    """The text of a file from a place that moves on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder(object_pairs_hook=_object).raw_decode
        self._text = ""
        self._at = 0
        self._before = 0  # characters that were dropped
        self._ended = False

    def next(self) -> str:
        """Return the next character that is no space; empty at the end."""
        mark = self._text[self._at : self._at + 1]
        if mark > " ":
            return mark
        while True:
            self._at = SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_more()

    def skipped(self, mark: str) -> bool:
        """Return True behind this mark, if it is next."""
        there = self.next() == mark
        self._at += there
        return there

    def take(self, mark: str) -> None:
        if not self.skipped(mark):
            raise self.wrong(f"expected {mark!r}")

    def value(self) -> Any:
        self.next()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:  # perhaps it goes on
                if self._ended or len(self._text) - self._at > MAX_PART:
                    raise self.wrong(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.wrong(str(error)) from None
            else:
                is_number = isinstance(value, int | float)
                if self._ended or not is_number or len(self._text) - end > LONGEST_NUMBER:
                    self._at = end
                    return value
            self._read_more()

    def _read_more(self) -> None:
        """Read as much again as is left, so that a long part is not scanned many times."""
        data = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._ended = not data
        try:
            more = self._decode(data, self._ended)
        except UnicodeDecodeError:
            raise MalformedLineError("not UTF-8") from None
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0

    def wrong(self, words: str, at: int | None = None) -> MalformedLineError:
        place = self._before + (self._at if at is None else at) + 1
        return MalformedLineError(f"not JSON: {words} at character {place}")
