"""What disks, networks and file systems do to files: they lose a part, or leave zeros in its place. Seeded."""

import importlib.util
import io
import random
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from tests.helpers import extra_files

FLAT = (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
SECTOR = 64  # bytes; small, as the files are


def _scene(width: int = 240, height: int = 180) -> Image.Image:
    luck = np.random.default_rng(7)
    coarse = Image.fromarray(luck.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    grain = Image.fromarray(luck.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return Image.blend(coarse.resize((width, height), Image.Resampling.BICUBIC), grain, 0.15)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def whole_files() -> dict[str, bytes]:
    """By format. Uncompressed ones are left out: there zeros are black pixels."""
    image = _scene()
    fax = image.convert("1")
    files = {
        "jpeg": _encoded(image, "JPEG", quality=85),
        "jpeg progressive": _encoded(image, "JPEG", quality=85, progressive=True),
        "jpeg grey": _encoded(image.convert("L"), "JPEG"),
        "jpeg cmyk": _encoded(image.convert("CMYK"), "JPEG"),
        "png": _encoded(image, "PNG"),
        "png palette": _encoded(image.convert("P"), "PNG"),
        "webp": _encoded(image, "WEBP"),
        "webp lossless": _encoded(image, "WEBP", lossless=True),
        "gif": _encoded(image.convert("P"), "GIF"),
        "avif": _encoded(image, "AVIF", speed=8),
    }
    for how in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"):
        files[f"tiff {how}"] = _encoded(image, "TIFF", compression=how)
    for how in ("group3", "group4"):
        files[f"tiff {how}"] = _encoded(fax, "TIFF", compression=how)
    return files | _several(image) | _of_extras(image)


def _several(image: Image.Image) -> dict[str, bytes]:
    """Four frames, none like another."""
    images = [image, *(image.transpose(turn) for turn in FLAT)]
    how = {"save_all": True, "append_images": images[1:], "duration": 80}
    return {
        "gif frames": _encoded(images[0], "GIF", **how),
        "apng": _encoded(images[0], "PNG", **how),
        "webp frames": _encoded(images[0], "WEBP", **how),
        "webp lossless frames": _encoded(images[0], "WEBP", lossless=True, **how),
        "avif frames": _encoded(images[0], "AVIF", speed=10, **how),
        "tiff pages": _encoded(images[0], "TIFF", compression="tiff_lzw", **how),
        "mpo": _encoded(images[0], "MPO", save_all=True, append_images=images[1:2]),
    }


def _of_extras(image: Image.Image) -> dict[str, bytes]:
    """Files of the extras that are installed. Greys that are stored as they are are left out, as above."""
    files: dict[str, bytes] = {}
    if importlib.util.find_spec("cv2"):
        files |= {suffix: extra_files.video(suffix, n=24) for suffix in extra_files.CODECS}
    if importlib.util.find_spec("pypdfium2"):
        files["pdf"] = extra_files.pdf([image, image.transpose(Image.Transpose.ROTATE_180)])
    if importlib.util.find_spec("pydicom"):
        grey = np.asarray(image.convert("L"))
        files["dicom rle"] = extra_files.dicom(grey.astype(np.uint16) << 4, compress="rle")
        files["dicom jpeg"] = extra_files.dicom(grey, compress="jpeg")
    return files


def lossy(data: bytes, number: int) -> bytes:
    """The file with the loss of this number."""
    luck = random.Random(number)
    return LOSSES[number % len(LOSSES)](data, luck)


def _cut(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(1, len(data) - 2)]


def _never_written(data: bytes, luck: random.Random) -> bytes:
    at = luck.randrange(1, len(data) - SECTOR)
    return data[:at] + bytes(len(data) - at)


def _hole(data: bytes, luck: random.Random) -> bytes:
    size = SECTOR * luck.choice((1, 2, 8, 32))
    at = luck.randrange(0, max(1, len(data) - size))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def _dropped(data: bytes, luck: random.Random) -> bytes:
    size = SECTOR * luck.choice((1, 2, 8, 32))
    at = luck.randrange(0, max(1, len(data) - size))
    return data[:at] + data[at + size :]


def _hole_with_its_end(data: bytes, luck: random.Random) -> bytes:
    """A download in parts, of which one never came."""
    at = luck.randrange(1, len(data) - SECTOR)
    end = luck.randrange(at + SECTOR // 2, len(data))
    return data[:at] + bytes(end - at) + data[end:]


LOSSES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _never_written,
    _hole,
    _dropped,
    _hole_with_its_end,
)
