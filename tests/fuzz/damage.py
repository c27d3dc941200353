"""Seeded damage to image files: the same number gives the same file, everywhere.

Some of it is blind (bits, cuts, splices); some of it knows the formats and lies in a length, a count or an offset, with
the checksum repaired, so that it passes the first check.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from tests.fuzz.losses import whole_files
from tests.helpers.extra_files import CODECS

EDGES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\1",
    b"\1\0\0\0",
    b"\x80\0\0\0",
)
PNG_SIGNATURE = 8  # bytes
EXTRAS = (*CODECS, "pdf", "dicom rle", "dicom jpeg")  # names in tests.fuzz.losses
STARTS: dict[str, bytes | tuple[bytes, ...]] = {
    "JPEG": b"\xff\xd8",
    "PNG": b"\x89PNG",
    "GIF": b"GIF8",
    "BMP": b"BM",
    "TIFF": (b"II", b"MM"),
    "PDF": b"%PDF",
    "MATROSKA": b"\x1aE\xdf\xa3",
    "DICOM": bytes(128),
}


@cache
def seeds() -> tuple[bytes, ...]:
    """Small files of the seven formats, in the modes and compressions that Pillow writes."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    smooth = noise.resize((7, 5)).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    files = []
    for image in (noise, smooth):
        files += [
            _encoded(image, "JPEG", exif=exif.tobytes()),
            _encoded(image, "JPEG", progressive=True),
            _encoded(image.convert("CMYK"), "JPEG"),
            _encoded(image, "MPO", save_all=True, append_images=[smooth]),
            _encoded(image, "PNG", exif=exif.tobytes()),
            _encoded(image.convert("RGBA"), "PNG"),
            _encoded(image.convert("P"), "PNG", transparency=3),
            _encoded(image, "PNG", save_all=True, append_images=[smooth.resize(image.size)]),
            _encoded(image, "WEBP", exif=exif.tobytes()),
            _encoded(image.convert("RGBA"), "WEBP", lossless=True),
            _encoded(image, "WEBP", save_all=True, append_images=[smooth.resize(image.size)]),
            _encoded(image.convert("P"), "GIF", transparency=2),
            _encoded(image, "GIF", save_all=True, append_images=[smooth, noise]),
            _encoded(image, "AVIF", speed=9),
            _encoded(image.convert("RGBA"), "AVIF", speed=9),
            _encoded(image, "BMP"),
            _encoded(image.convert("P"), "BMP"),
            _encoded(image.convert("1"), "BMP"),
        ]
        files += [_encoded(image, "TIFF", compression=how) for how in ("raw", "tiff_lzw", "packbits", "jpeg")]
        files += [_encoded(image.convert(mode), "TIFF", compression="tiff_deflate") for mode in ("P", "RGBA", "CMYK")]
        files += [_encoded(image.convert("1"), "TIFF", compression=how) for how in ("group3", "group4")]
        files.append(_encoded(image, "TIFF", big_tiff=True, tiffinfo={0x0112: 6}))
    grey = Image.fromarray(np.linspace(0, 65535, 30 * 20).astype(np.uint16).reshape(20, 30))
    return (*files, _encoded(grey, "PNG"), _encoded(grey, "TIFF"), *_several(noise, smooth), *_of_extras())


def _several(noise: Image.Image, smooth: Image.Image) -> list[bytes]:
    """Frames that are parts of a canvas, with times, and with a picture beside them."""
    images = [noise.resize((48, 32)), smooth.resize((48, 32)), noise.resize((48, 32)).rotate(180)]
    images[2].paste(images[1], (8, 8))
    how = {"save_all": True, "append_images": images[1:]}
    return [
        _encoded(images[0], "GIF", duration=[50, 0, 200], disposal=[1, 2, 3], loop=0, **how),
        _encoded(images[0], "PNG", duration=50, disposal=2, blend=1, default_image=True, **how),
        _encoded(images[0].convert("RGBA"), "WEBP", duration=50, **how),
        _encoded(images[0], "AVIF", duration=50, speed=10, **how),
        _encoded(images[0], "TIFF", compression="tiff_lzw", **how),
    ]


def _of_extras() -> list[bytes]:
    """Files of the extras that are installed."""
    return [data for name, data in whole_files().items() if name in EXTRAS]


def families() -> dict[str, tuple[bytes, ...]]:
    """The seeds by format."""
    found: dict[str, list[bytes]] = {}
    for data in seeds():
        found.setdefault(_family(data), []).append(data)
    return {name: tuple(files) for name, files in found.items()}


def _family(data: bytes) -> str:
    if data.startswith(b"RIFF"):
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:10] == b"av" else "MP4"
    return next(name for name, start in STARTS.items() if data.startswith(start))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(number: int, files: tuple[bytes, ...] = ()) -> bytes:
    """The file of this number: one to three kinds of damage to one of the seeds, or of these files."""
    luck = random.Random(number)
    files = files or seeds()
    data = bytearray(files[number % len(files)])
    for _ in range(luck.choice((1, 1, 2, 3))):
        if len(data) > 8:
            luck.choice(KINDS)(data, luck)
    return bytes(data)


def _flip_bits(data: bytearray, luck: random.Random) -> None:
    for _ in range(luck.choice((1, 3, 10, 40))):
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)


def _cut(data: bytearray, luck: random.Random) -> None:
    del data[luck.randrange(len(data)) :]


def _splice(data: bytearray, luck: random.Random) -> None:
    other = luck.choice(seeds())
    data[luck.randrange(len(data)) :] = other[luck.randrange(len(other)) :]


def _edit_header(data: bytearray, luck: random.Random) -> None:
    for _ in range(luck.choice((1, 4))):
        at = luck.randrange(min(len(data), 100))
        data[at] = luck.choice((0, 1, 0x7F, 0x80, 0xFF, luck.randrange(256)))


def _repeat(data: bytearray, luck: random.Random) -> None:
    at = luck.randrange(len(data))
    data[at:at] = data[at : at + luck.randrange(1, 200)] * luck.choice((1, 2, 20))


def _scribble(data: bytearray, luck: random.Random) -> None:
    at = luck.randrange(len(data))
    data[at : at + luck.randrange(1, 64)] = luck.randbytes(luck.randrange(64))


def _lie(data: bytearray, luck: random.Random) -> None:
    """Overwrite a length, a count, a size or an offset."""
    fields = _fields(data)
    for _ in range(luck.choice((1, 1, 3))):
        at, size = luck.choice(fields)
        words = luck.choice((*EDGES, luck.randbytes(4)))
        data[at : at + size] = words[-size:] if luck.random() < 0.5 else words[:size]
    if data.startswith(b"\x89PNG") and luck.random() < 0.8:
        _mend_checksums(data)


KINDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits, _cut, _splice, _edit_header, _repeat, _scribble, _lie, _lie,
)  # fmt: skip


def _fields(data: bytearray) -> list[tuple[int, int]]:
    """(offset, bytes) of what the format counts with; any four bytes where it is not known."""
    found: list[tuple[int, int]] = []
    if data.startswith(b"\x89PNG"):
        for at, _ in _png_chunks(data):
            found += [(at, 4), (at + 8, 4), (at + 12, 4), (at + 16, 1), (at + 17, 1)]
    elif data.startswith(b"\xff\xd8"):
        found = [(at + 2, 2) for at in range(len(data) - 8) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
        found += [(at + 5, 4) for at, _ in found]
    elif data.startswith(b"RIFF"):
        found = [(4, 4), (16, 4), (20, 4), (24, 3), (26, 4), (27, 3)]
    elif data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:1] == b"I" else ">"
        (start,) = struct.unpack_from(order + "I", data, 4)
        found = [(4, 4), (start, 2)]
        found += [(start + 2 + 12 * n + at, size) for n in range(20) for at, size in ((0, 2), (2, 2), (4, 4), (8, 4))]
    elif data.startswith(b"GIF8"):
        found = [(6, 2), (8, 2), (10, 1), (11, 1)]
        found += [(at + 1, 2) for at in range(13, len(data) - 12) if data[at] in (0x21, 0x2C)][:40]
    elif data.startswith(b"BM"):
        found = [(2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4)]
    return [(at, size) for at, size in found if at + size <= len(data)] or [(len(data) // 2, 4)]


def _png_chunks(data: bytearray) -> list[tuple[int, int]]:
    """(offset, length of the body) of each chunk that lies within the file."""
    chunks, at = [], PNG_SIGNATURE
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        chunks.append((at, length))
        at += 12 + length
    return chunks


def _mend_checksums(data: bytearray) -> None:
    for at, length in _png_chunks(data):
        struct.pack_into(">I", data, at + 8 + length, zlib.crc32(data[at + 4 : at + 8 + length]))
