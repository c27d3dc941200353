"""PNG files, checked chunk by chunk: Pillow believes a wrong checksum of pixels, and does without the end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, PngImagePlugin

from scanfleet.images import samples
from scanfleet.images.samples import Notes
from scanfleet.images.types import failure

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IDAT", b"fdAT")
# What says nothing about pixels. Pillow unpacks these chunks, and refuses the file if they come to over a megabyte.
SPOKEN = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # text that Pillow reads an orientation from
MOST_TEXT = 1 << 16  # bytes of such a text
PORTION = 1 << 20
OF_FRAMES = (b"acTL", b"fcTL")  # damaged ones would hide frames
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))  # Adam7


class Header(NamedTuple):
    width: int
    height: int
    bits: int  # of a sample
    colour: int
    interlaced: bool

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows, each with its filter."""
        passes = PASSES if self.interlaced else ((0, 1, 0, 1),)
        total = 0
        for left, dx, top, dy in passes:
            columns, rows = -(-(self.width - left) // dx), -(-(self.height - top) // dy)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * self.bits * CHANNELS[self.colour] + 7) // 8)
        return total


def header(data: bytes) -> Header:
    """Return the layout of a file that Pillow has opened."""
    return Header(
        int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data[24], data[25], interlaced=bool(data[28])
    )


def checked(data: bytes) -> bytes:
    """The same file without long text and without harmless chunks that are damaged. Raises ImageError."""
    kept, start, at = [], 0, len(SIGNATURE)
    for kind, at, end in chunks(data):
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if not sound and (kind[:1].isupper() or kind in PIXELS or kind in OF_FRAMES):
            raise failure("corrupt", f"the checksum of chunk {kind.decode('latin-1')} at byte {at} is wrong")
        if not sound or (kind in SPOKEN and not _says_orientation(kind, data[at + 8 : end - 4])):
            kept.append(data[start:at])
            start = end
        if kind == b"IEND":
            return b"".join((*kept, data[start:]))
    raise failure("truncated", f"chunk IEND is missing after byte {at}")


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk that is there as a whole."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            return
        yield data[at + 4 : at + 8], at, end
        at = end


def _says_orientation(kind: bytes, body: bytes) -> bool:
    if not body.startswith(ORIENTED) or len(body) > MOST_TEXT:
        return False
    rest = body[body.index(b"\0") + 1 :]
    if kind == b"zTXt":
        unpacker = zlib.decompressobj()
        try:
            unpacker.decompress(rest[1:], MOST_TEXT)
        except zlib.error:
            return False
        return not unpacker.unconsumed_tail
    return kind == b"tEXt" or not rest.startswith(b"\1")  # no program packs these texts in iTXt


def read(opened: PngImagePlugin.PngImageFile, data: bytes, *, stretch: bool) -> tuple[Image.Image, Notes]:
    """The picture in 8 bits, perhaps with transparency. Raises ImageError."""
    opened.load()
    facts = header(data)
    _require_all_rows(opened, data)
    key = opened.info.get("transparency")
    if facts.bits < 8 and isinstance(key, int):
        opened.info["transparency"] = key * 255 // ((1 << facts.bits) - 1)  # Pillow has spread the pixels so
    if facts.bits < 16:
        return opened, ()
    if opened.mode in ("RGB", "RGBA"):
        mask = samples.colour_key_mask(opened, data, key) if isinstance(key, tuple) else None
        image, notes = samples.colour(opened, data, 0, stretch=stretch)
    elif opened.mode.startswith("I"):
        mask = samples.key_mask(opened, key) if isinstance(key, int) else None
        image, notes = samples.grey(opened, bits=16, stretch=stretch)
    else:
        return opened, ()
    image.info.pop("transparency", None)
    if mask is not None:
        image = image.convert("RGB")
        image.putalpha(mask)
    return image, notes


def _require_all_rows(image: Image.Image, data: bytes) -> None:
    """Raises ImageError unless the file holds all rows of its picture. Pillow leaves those black that do not come.

    image: as it was decoded. Its last row, if it is not black, has come.
    """
    facts = header(data)
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not facts.interlaced and any(last.tobytes()):
        return
    unpacker = zlib.decompressobj()
    n = 0
    for kind, at, end in chunks(data):
        rest = data[at + 8 : end - 4] if kind == b"IDAT" else b""
        while rest:
            n += len(unpacker.decompress(rest, PORTION))
            rest = unpacker.unconsumed_tail
    if n + len(unpacker.flush()) < facts.n_bytes:
        raise failure("truncated", f"{n} of {facts.n_bytes} bytes of rows")
