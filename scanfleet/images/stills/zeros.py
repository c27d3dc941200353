"""WebP and AVIF: is a run of zeros data, or what a full disk or a broken download left?

Both compress to what looks like noise, and their decoders make a picture of any bytes. A run of zeros is suspicious;
what gives it away is that the decoder then needs less than is there, or that it does not miss the end.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from scanfleet.images.types import DAMAGE, failure

RUN = bytes(16)
LEFT_OVER = 16  # bytes: no decoder can do without the last ones of sound data
PICTURES = (b"VP8 ", b"VP8L")
OBU = (b"\x12", b"\x0a")  # an AV1 stream begins with a temporal delimiter or with a sequence header
MOST_ITEMS = 1024
FRAME = b"ANMF"
FRAME_HEADER = 16  # bytes


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    length: int


# A run so long is data of a flat picture alone, which takes fewer bits a pixel than this.
LONG_RUN = bytes(32)
FLAT = {b"VP8 ": 0.1, b"VP8L": 1.0}


def check(opened: Image.Image, data: bytes) -> None:
    """Raises ImageError where zeros stand for data of the first picture."""
    if opened.format == "WEBP":
        _check_webp(data, opened.width * opened.height)
    elif data.endswith(RUN) or any(RUN in data[start:end] for start, end in _items(data)):
        raise failure("corrupt", "a run of zeros stands in the place of data")


def check_sequence(data: bytes) -> None:
    """Raises ImageError where zeros stand for data of an animated AVIF."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4]) or len(data) - at
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
        if data[at + 4 : at + 8] == b"mdat" and RUN in data[at : at + length]:
            raise failure("corrupt", "a run of zeros stands in the place of data")
        if length < 8 or at + length > len(data):
            raise failure("truncated", f"the box at byte {at} goes beyond the end")
        at += length


def _check_webp(data: bytes, n_pixels: int) -> None:
    chunk = _picture(data)
    if chunk is None:
        return
    body = data[chunk.start : chunk.start + chunk.length]
    if RUN not in body:
        return
    used = body.rstrip(b"\0")
    tail = len(body) - len(used)
    if tail >= len(RUN) and _decodes(_webp(chunk.kind, used)):
        return  # padding behind the data
    flat = 8 * len(body) < FLAT[chunk.kind] * n_pixels
    if (LONG_RUN in body and not flat) or _decodes(_webp(chunk.kind, body[:-LEFT_OVER])):
        raise failure("corrupt", "a run of zeros stands in the place of data")


def _picture(data: bytes) -> _Chunk | None:
    """The pixels of the first frame."""
    at, end = 12, len(data)
    while at + 8 <= end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in PICTURES:
            return _Chunk(kind, at + 8, length)
        at += 8 + (FRAME_HEADER if kind == FRAME else length + length % 2)
    return None


def _items(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the pictures in an AVIF file: what its box iloc points to and an AV1 stream begins in."""
    at = data.find(b"iloc") + 4
    if at < 4:
        return
    version, sizes, more = data[at], data[at + 4], data[at + 5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    number_size = 4 if version == 2 else 2
    at += 6
    n_items, at = int.from_bytes(data[at : at + number_size]), at + number_size
    for _ in range(min(n_items, MOST_ITEMS)):
        at += number_size + (2 if version else 0) + 2  # its number, how it is stored, where
        base, at = int.from_bytes(data[at : at + base_size]), at + base_size
        n_extents, at = int.from_bytes(data[at : at + 2]), at + 2
        for _ in range(min(n_extents, MOST_ITEMS)):
            at += index_size
            start, at = base + int.from_bytes(data[at : at + offset_size]), at + offset_size
            length, at = int.from_bytes(data[at : at + length_size]), at + length_size
            if data[start : start + 1] in OBU:
                yield start, start + length


def _webp(kind: bytes, body: bytes) -> bytes:
    """A file of nothing but a picture."""
    chunk = kind + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def _decodes(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as opened:
            opened.load()
    except DAMAGE:
        return False
    return True
