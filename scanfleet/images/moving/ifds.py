"""The pages of a TIFF, found without decoding any: its image file directories, one after the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from scanfleet.images.frames import MOST_LOOKED_AT
from scanfleet.images.types import failure

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT = 254, 255, 256, 257  # tags
REDUCED, MASK = 1, 4  # bits of SUBFILE
OLD_REDUCED = 2
SHORT = 3  # type of a value of two bytes
BIG = 43


class Page(NamedTuple):
    number: int  # among all pages
    width: int
    height: int
    is_picture: bool  # neither a reduced copy nor a mask
    is_reduced: bool  # calls itself a copy


class _Layout(NamedTuple):
    """How a TIFF or a BigTIFF writes its directories."""

    first: int  # where the file says where the first directory is
    offset: struct.Struct
    number: struct.Struct  # of entries
    entry: struct.Struct  # tag, type, number of values, value


def pages(data: bytes) -> Iterator[Page]:
    """Yield each page once, up to MOST_LOOKED_AT of them. Raises ImageError where a directory is not in the file."""
    order = "<" if data[:1] == b"I" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == BIG
    words = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    layout = _Layout(8 if big else 4, *(struct.Struct(order + word) for word in words))
    (at,) = layout.offset.unpack_from(data, layout.first)
    seen: set[int] = set()
    while at and at not in seen and len(seen) < MOST_LOOKED_AT:  # some files go round in circles
        try:
            page, at_next = _page(data, at, layout, order, len(seen))
        except struct.error:
            raise failure("truncated", f"page {len(seen) + 1} begins at byte {at} of {len(data)}") from None
        yield page
        seen.add(at)
        at = at_next


def _page(data: bytes, at: int, layout: _Layout, order: str, number: int) -> tuple[Page, int]:
    (n_entries,) = layout.number.unpack_from(data, at)
    at += layout.number.size
    values: dict[int, int] = {}
    for place in range(at, at + n_entries * layout.entry.size, layout.entry.size):
        tag, kind, _, value = layout.entry.unpack_from(data, place)
        if tag in (SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT):
            (values[tag],) = struct.unpack_from(order + ("H" if kind == SHORT else "I"), value)
        elif tag > HEIGHT:
            break  # tags are in order
    (after,) = layout.offset.unpack_from(data, at + n_entries * layout.entry.size)
    reduced = bool(values.get(SUBFILE, 0) & REDUCED) or values.get(OLD_SUBFILE) == OLD_REDUCED
    mask = bool(values.get(SUBFILE, 0) & MASK)
    size = values.get(WIDTH, 0), values.get(HEIGHT, 0)
    return Page(number, *size, is_picture=not (reduced or mask), is_reduced=reduced and not mask), after
