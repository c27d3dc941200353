"""Bytes to pixels, with every limit checked before memory is spent. Untrusted input ends here."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

# These plugins by name: else Pillow loads all it has, with the decoders of formats that are not accepted.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from scanfleet.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")

# What Pillow's decoders raise on damaged files; OSError also for "image file is truncated". Found by fuzzing, or read
# in the source. No wider net: an error that stands for a fault of Pillow's or ours must not pass for damage.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
)

TOO_MUCH_TEXT = ("MAX_TEXT_CHUNK", "Too much memory used in text chunks")  # Pillow's guard against bombs in PNG text

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)

JPEG_SCALES = (8, 4, 2)  # what its decoder can divide both sides by, at less cost than decoding all pixels

# We compare the size in the header with our own limit; Pillow's global one only warns between 1x and 2x.
Image.MAX_IMAGE_PIXELS = None


class Enough(NamedTuple):
    """Whoever asked needs no more: so many pixels in all, and so many along the short side."""

    pixels: int
    short_side: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An upright 8-bit RGB image, and what the file said of itself.

    `image` is smaller than width x height where less was enough.
    """

    image: Image.Image
    width: int  # pixels of the file's picture, upright
    height: int
    format: str


def decode(data: bytes, *, max_pixels: int, enough: Enough | None = None) -> Decoded:
    """Decode the first frame of an image to upright RGB.

    EXIF rotation is applied, transparency is laid over white, 16-bit greys keep their upper byte. A JPEG with more than
    `enough` is decoded at 1/2, 1/4 or 1/8 of its sides, in a fraction of the time; max_pixels counts the whole.
    Raises ImageError (stage decode): empty, not_an_image, too_many_pixels, too_much_text, truncated.
    """
    if not data:
        raise _fault("empty", "the file has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > max_pixels:
                size = f"{opened.width} x {opened.height}"
                raise _fault("too_many_pixels", f"{size} is over the limit of {max_pixels} pixels")
            whole = opened.size
            if enough is not None and isinstance(opened, JpegImagePlugin.JpegImageFile):
                _draft(opened, enough)
            opened.load()
            turn = _turn(opened)
            width, height = reversed(whole) if turn in SIDEWAYS else whole
            image = _to_rgb(opened if turn is None else opened.transpose(turn))
            return Decoded(image=image, width=width, height=height, format=opened.format or "unknown")
    except UnidentifiedImageError:
        raise _fault("not_an_image", f"no {', '.join(FORMATS)} header in {len(data)} bytes") from None
    except DAMAGE as error:
        if any(word in str(error) for word in TOO_MUCH_TEXT):
            raise _fault("too_much_text", "its text chunks unpack to more than 1 MB each or 64 MB together") from error
        raise _fault("truncated", f"{type(error).__name__}: {error}") from error


def _draft(image: JpegImagePlugin.JpegImageFile, enough: Enough) -> None:
    """Have it decoded at the smallest size that is enough."""
    for scale in JPEG_SCALES:
        width, height = math.ceil(image.width / scale), math.ceil(image.height / scale)
        if width * height >= enough.pixels and min(width, height) >= enough.short_side:
            # Pillow takes the largest scale that leaves this much; rounded down, that is this one.
            image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
            return


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes it upright, by its EXIF data; damaged ones say nothing, and do not make the pixels worse."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255, which turns a 16-bit X-ray white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "F":
        raise _fault("not_an_image", "32-bit floating point pixels have no defined white")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image.alpha_composite(layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def _fault(reason: str, detail: str) -> ImageError:
    return ImageError(stage="decode", reason=reason, detail=detail)
