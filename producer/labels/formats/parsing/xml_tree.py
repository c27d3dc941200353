"""Reads XML files that nobody vouches for.

A document type is refused before it is read: entities that expand without end, or fetch files, need one.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from scanfleet.producer.labels.formats.parsing.files import bytes_file, opened
from scanfleet.producer.sources.manifest import MalformedLineError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
DECLARED = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
HEAD_BYTES = 1 << 16
Element = ElementTree.Element


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str, system: str) -> NoReturn:
        raise MalformedLineError("it has a document type (<!DOCTYPE …>), which files of labels do not need")


def root_of_xml(file: Path) -> Element:
    """Raises MalformedLineError."""
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314
    try:
        parser.feed(_text(bytes_file(file)))
        root: Element = parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise MalformedLineError(f"not XML: {error}") from None
    return root


class _Head:
    """Keeps the name of the outermost element, and reads no further."""

    tag: str | None = None

    def start(self, tag: str, attributes: object) -> NoReturn:
        self.tag = tag
        raise MalformedLineError("read enough")

    def doctype(self, name: str, pubid: str, system: str) -> NoReturn:
        raise MalformedLineError("a document type")

    def close(self) -> None: ...


def starts_with(file: Path, tag: str) -> bool:
    """Return True if the outermost element has this name. False if that does not stand at the beginning of the file."""
    head = _Head()
    with opened(file) as data, contextlib.suppress(ElementTree.ParseError, MalformedLineError, ValueError):
        ElementTree.XMLParser(target=head).feed(data.read(HEAD_BYTES))  # noqa: S314
    return head.tag == tag


def only(parent: Element, path: str) -> str | None:
    """Return the text of an element, None if there is none. Raises MalformedLineError if there are several."""
    found = parent.findall(path)
    if len({one.text for one in found}) > 1:
        raise MalformedLineError(f"<{path}> occurs {len(found)} times")
    return found[0].text if found else None


def _text(data: bytes) -> str:
    """Decode as the byte order mark or the declaration says, else as UTF-8. Raises MalformedLineError."""
    declared = DECLARED.match(data)
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        if encoding.lower().startswith(("utf-16", "utf-32", "ucs")):  # the declaration itself is in single bytes
            encoding = "utf-8"
    try:
        return data.decode(encoding)
    except LookupError:
        raise MalformedLineError(f"the encoding {encoding[:40]} is not known") from None
    except UnicodeError as error:
        raise MalformedLineError(f"not {encoding}: {error}") from None
