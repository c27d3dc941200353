"""Animated WebP: its frames, each as a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from scanfleet.images.moving.animation import Animation, Part, Parts
from scanfleet.images.types import failure

FRAME, ALPHA, EXTENDED = b"ANMF", b"ALPH", b"VP8X"
FRAME_HEADER = 16  # bytes
CLEARS, REPLACES, ANIMATED, HAS_ALPHA = 1, 2, 2, 0x10  # flags


def animation(data: bytes, max_pixels: int, turn: Image.Transpose | None) -> Animation | None:
    """The frames of the file; None where it holds one picture. Raises ImageError."""
    if data[12:16] != EXTENDED or not data[20] & ANIMATED:
        return None
    parts = Parts()
    for kind, start, end in _chunks(data):
        if kind == FRAME:
            parts.add(_part(data, start, end))
    if parts.n <= 1:
        return None
    size = (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))

    def file_of(part: Part) -> bytes:
        ((start, end),) = part.spans
        return _file(data[start:end], part.box[2] - part.box[0], part.box[3] - part.box[1])

    return Animation(size=size, parts=parts, format="WEBP", file_of=file_of, max_pixels=max_pixels, turn=turn)


def _part(data: bytes, start: int, end: int) -> Part:
    left, top, width, height, milliseconds = (
        int.from_bytes(data[at : at + 3], "little") for at in range(start, start + 15, 3)
    )
    flags = data[start + 15]
    box = (2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1)
    after = "clear" if flags & CLEARS else "keep"
    over = not flags & REPLACES
    return Part(box, milliseconds / 1000, over, after, [(start + FRAME_HEADER, end)])  # type: ignore[arg-type]


def _file(chunks: bytes, width: int, height: int) -> bytes:
    if chunks.startswith(ALPHA):
        body = bytes((HAS_ALPHA, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = EXTENDED + len(body).to_bytes(4, "little") + body + chunks
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start and end of its body) of each chunk. Raises ImageError where the file ends before they do."""
    at, stop = 12, 8 + int.from_bytes(data[4:8], "little")
    if len(data) < stop:
        raise failure("truncated", f"{len(data)} of {stop} bytes")
    while at + 8 <= stop:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > stop:
            raise failure("truncated", f"the chunk at byte {at} goes beyond the end")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2
