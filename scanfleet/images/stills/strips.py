"""Are all strips of a TIFF there, and is each of them whole? Pillow and libtiff fill in what is not."""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

from scanfleet.images.stills import jpeg
from scanfleet.images.types import failure

# tags
WIDTH, HEIGHT, BITS, COMPRESSION, PLANES, PLANAR, JPEG_TABLES = 256, 257, 258, 259, 277, 284, 347
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325

RAW, JPEG, PACKBITS, DEFLATE = 1, 7, 32773, (8, 32946)  # compressions
CCITT, LZW, LZMA, ZSTD = (2, 3, 4), 5, 34925, 50000
PHOTOMETRIC, YCBCR, YCBCR_SUBSAMPLING = 262, 6, 530  # two tags, and a value of the first
SEPARATE = 2  # planes one after the other
# No code of CCITT holds so many zeros, and libtiff skips them; the others write a repetition as something shorter.
ZERO_RUNS = {**dict.fromkeys((*CCITT, LZW), bytes(16)), LZMA: bytes(32), ZSTD: bytes(32)}
PORTION = 1 << 20
MOST_PADDING = 8  # bytes behind the last row


class _Layout(NamedTuple):
    n_strips: int
    width: int  # of a strip or tile
    rows: int
    last_rows: int  # of the last strip of a plane
    n_planes: int  # one after the other

    def rows_of(self, number: int) -> int:
        per_plane = self.n_strips // self.n_planes
        return self.last_rows if number % per_plane == per_plane - 1 else self.rows


def require_all(tags: Any, data: bytes) -> None:
    """Raises ImageError unless all strips or tiles are there as a whole."""
    tiled = TILE_OFFSETS in tags
    layout = _layout(tags, tiled=tiled)
    offsets = numbers(tags, TILE_OFFSETS if tiled else STRIP_OFFSETS, 0)
    lengths = numbers(tags, TILE_BYTES if tiled else STRIP_BYTES, len(data))
    there = sum(offset > 0 and length > 0 for offset, length in zip(offsets, lengths, strict=False))
    if there < layout.n_strips:
        raise failure("truncated", f"{there} of {layout.n_strips} strips or tiles")
    compression = tags.get(COMPRESSION, RAW)
    n_samples = 1 if tags.get(PLANAR) == SEPARATE else int(tags.get(PLANES, 1))
    row_bytes = (layout.width * n_samples * numbers(tags, BITS, 1)[0] + 7) // 8
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=False)):
        strip = data[offset : offset + length] if compression != RAW else b""
        if compression in ZERO_RUNS and ZERO_RUNS[compression] in strip:
            raise failure("corrupt", f"the strip at byte {offset} holds a run of zeros")
        if compression in DEFLATE and not _is_sound(strip):
            raise failure("corrupt", f"the checksum of the strip at byte {offset} is wrong")
        if compression == JPEG:
            jpeg.check(_with_tables(strip, tags.get(JPEG_TABLES, b"")), n_components=n_samples)
        subsampled = tags.get(PHOTOMETRIC) == YCBCR and tags.get(YCBCR_SUBSAMPLING, (2, 2)) != (1, 1)
        if compression == PACKBITS and not subsampled and not _unpacks_to(strip, row_bytes * layout.rows_of(number)):
            raise failure("corrupt", f"packed rows at byte {offset} end at another place than their data")


def _layout(tags: Any, *, tiled: bool) -> _Layout:
    width, height = tags[WIDTH], tags[HEIGHT]
    n_planes = tags.get(PLANES, 1) if tags.get(PLANAR) == SEPARATE else 1
    if tiled:
        tile_width, rows = tags[TILE_WIDTH], tags[TILE_HEIGHT]
        n = math.ceil(width / tile_width) * math.ceil(height / rows)
        return _Layout(n * n_planes, tile_width, rows, rows, n_planes)
    rows = min(height, max(1, tags.get(ROWS_PER_STRIP, height)))
    n = math.ceil(height / rows)
    return _Layout(n * n_planes, width, rows, height - (n - 1) * rows, n_planes)


def _with_tables(strip: bytes, tables: bytes) -> bytes:
    """A JPEG of a strip and the tables that it shares with others."""
    return tables.removesuffix(jpeg.EOI) + strip[2:] if tables else strip


def _is_sound(strip: bytes) -> bool:
    """libtiff reads as much as it needs, and so no checksum."""
    unpacker = zlib.decompressobj()
    try:
        while strip and not unpacker.eof:
            unpacker.decompress(strip, PORTION)
            strip = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return unpacker.eof


def _unpacks_to(strip: bytes, n_bytes: int) -> bool:
    """Return True if PackBits end where the rows do."""
    at, end = 0, len(strip)
    while n_bytes > 0 and at < end:
        head = strip[at]
        if head < 128:
            at, n_bytes = at + head + 2, n_bytes - head - 1
        elif head > 128:
            at, n_bytes = at + 2, n_bytes - 257 + head
        else:
            at += 1
    return n_bytes == 0 and at <= end <= at + MOST_PADDING


def numbers(tags: Any, tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)
