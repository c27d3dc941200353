"""APNG: its frames, each as a PNG of its own."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

from PIL import Image

from scanfleet.images.moving.animation import Animation, Part, Parts
from scanfleet.images.stills import png
from scanfleet.images.types import failure

CONTROL = struct.Struct(">IIIIIHHBB")
AFTER: dict[int, Literal["keep", "clear", "restore"]] = {1: "clear", 2: "restore"}
OVER = 1
SHARED = (b"PLTE", b"tRNS", b"gAMA", b"sBIT", b"sRGB", b"cHRM")
SEQUENCE = 4  # bytes of its number, at the start of fcTL and fdAT


def animation(data: bytes, max_pixels: int, turn: Image.Transpose | None) -> Animation | None:
    """The frames of a file that png.checked has seen; None where it holds one picture alone. Raises ImageError."""
    parts, shared = Parts(), b""
    promised = 0
    still: list[tuple[int, int]] = []  # a picture before the first frame, for viewers that know no animation
    for kind, at, end in png.chunks(data):
        if kind == b"acTL":
            promised = int.from_bytes(data[at + 8 : at + 12])
        elif kind == b"fcTL":
            parts.add(_part(data[at + 8 : end - 4], first=not parts.n))
        elif kind in png.PIXELS:
            if not parts.n:
                still.append((at + 8, end - 4))
            elif parts.n <= len(parts.kept):
                parts.kept[-1].spans.append((at + 8 + SEQUENCE * (kind == b"fdAT"), end - 4))
        elif kind in SHARED:
            shared += data[at:end]
    if parts.n < promised and promised > 1:
        raise failure("truncated", f"{parts.n} of {promised} frames")
    if parts.n and not promised:
        raise failure("corrupt", "frames without the chunk acTL")
    if not promised or (parts.n <= 1 and not (parts.n and still)):
        return None
    size = png.header(data)[:2]
    if still:  # some viewers show it: it is the last picture, whatever its place in the file
        parts.add(Part((0, 0, *size), 0.0, False, "keep", still))

    def file_of(part: Part) -> bytes:
        left, top, right, bottom = part.box
        header = struct.pack(">II", right - left, bottom - top) + data[24:29]
        pixels = b"".join(data[start:end] for start, end in part.spans)
        return b"".join((png.SIGNATURE, _chunk(b"IHDR", header), shared, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")))

    return Animation(size=size, parts=parts, format="PNG", file_of=file_of, max_pixels=max_pixels, turn=turn)


def _part(body: bytes, *, first: bool) -> Part:
    _, width, height, left, top, seconds, parts_of_one, after, blend = CONTROL.unpack(body)
    how = AFTER.get(after, "keep")
    if first and how == "restore":
        how = "clear"  # there is nothing to restore
    box = (left, top, left + width, top + height)
    return Part(box, seconds / (parts_of_one or 100), blend == OVER, how, [])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
