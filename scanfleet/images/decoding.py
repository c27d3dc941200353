"""One picture of a file, as a viewer shows it, in 8-bit RGB."""

from __future__ import annotations

import io
from typing import NamedTuple

# These plugins by name: else Pillow loads all it has, with the decoders of formats that are not accepted.
from PIL import (  # noqa: F401
    AvifImagePlugin,
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
from scanfleet.images import ground, jpeg, png, tiff, zeros
from scanfleet.images.formats import AVIF, FORMATS, TIFF, unsupported
from scanfleet.images.samples import Notes
from scanfleet.images.types import DAMAGE, Decoded, Enough, failure

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

# We compare the size in the header with our own limit; Pillow's global one only warns between 1x and 2x.
Image.MAX_IMAGE_PIXELS = None


class _Asked(NamedTuple):
    max_pixels: int
    enough: Enough | None
    stretch: bool


def decode(data: bytes, *, max_pixels: int, enough: Enough | None = None, stretch: bool = True) -> Decoded:
    """Decode the first picture of a file to upright RGB.

    EXIF rotation is applied. Transparency is laid over white, or black or grey (scanfleet.images.ground). Samples of
    more than 8 bits are brought to 8, and with `stretch` those that are nearly black are made brighter
    (scanfleet.images.samples). A JPEG with more than `enough` is decoded at 1/2, 1/4 or 1/8 of its sides, in a fraction
    of the time; max_pixels counts the whole.
    Raises ImageError (stage decode): empty, not_an_image, unsupported, too_many_pixels, truncated, corrupt.
    """
    if not data:
        raise failure("empty", "the file has 0 bytes")
    try:
        if data.startswith(png.SIGNATURE):
            data = png.checked(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return _picture(opened, data, _Asked(max_pixels, enough, stretch))
    except UnidentifiedImageError:
        raise _why_not_opened(data) from None
    except DAMAGE as error:
        raise failure("truncated", f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if data[4:8] != b"ftyp":  # only Pillow's AVIF decoder says so of a damaged file
            raise
        raise failure("corrupt", str(error)) from error


def _why_not_opened(data: bytes) -> ImageError:
    if data.startswith(TIFF):
        return tiff.why_not_opened(data)
    name = jpeg.why_not_opened(data) if data.startswith(jpeg.SOI) else unsupported(data)
    if name is not None:
        return failure("unsupported", f"{name} is not read")
    if data[8:12] in AVIF:
        return failure("truncated", "an AVIF header and no picture")
    return failure("not_an_image", f"no {', '.join(FORMATS)} header in {len(data)} bytes")


def _picture(opened: Image.Image, data: bytes, asked: _Asked) -> Decoded:
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):  # its pages differ in size
        _require_size(opened, asked.max_pixels)  # going to another frame may decode this one
    notes = _choose_frame(opened)
    _require_size(opened, asked.max_pixels)
    whole = opened.size
    image, more = _read(opened, data, asked)
    turn = _turn(opened)
    width, height = reversed(whole) if turn in SIDEWAYS else whole
    image, about_ground = _to_rgb(image if turn is None else image.transpose(turn))
    notes += more + about_ground
    return Decoded(image=image, width=width, height=height, format=opened.format or "unknown", notes=notes)


def _require_size(opened: Image.Image, max_pixels: int) -> None:
    if opened.width * opened.height > max_pixels:
        size = f"{opened.width} x {opened.height}"
        raise failure("too_many_pixels", f"{size} is over the limit of {max_pixels} pixels")


def _choose_frame(opened: Image.Image) -> Notes:
    """Go to the picture that a viewer shows first."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return tiff.choose_page(opened)
    if isinstance(opened, PngImagePlugin.PngImageFile) and opened.is_animated and opened.default_image:
        opened.seek(1)  # the picture before it is for viewers that know no animation
        return ("the first frame of the animation is read, not the still picture beside it",)
    return ()


def _read(opened: Image.Image, data: bytes, asked: _Asked) -> tuple[Image.Image, Notes]:
    """All pixels in 8 bits, perhaps with transparency. Raises ImageError and what is in DAMAGE."""
    match opened:
        case JpegImagePlugin.JpegImageFile():
            return jpeg.read(opened, data, asked.enough), ()
        case TiffImagePlugin.TiffImageFile():
            return tiff.read(opened, data, stretch=asked.stretch)
        case PngImagePlugin.PngImageFile():
            return png.read(opened, data, stretch=asked.stretch)
        case WebPImagePlugin.WebPImageFile() | AvifImagePlugin.AvifImageFile():
            zeros.check(opened, data)
    opened.load()
    if opened.format == "BMP" and opened.mode == "RGBA" and opened.getchannel("A").getextrema() == (0, 0):
        return opened.convert("RGB"), ()  # nobody has set the opacity
    return opened, ()


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes the picture upright. Damaged EXIF data give none; the pixels are sound."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Notes]:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return ground.lay(image.convert("RGBA"))
    return (image if image.mode == "RGB" else image.convert("RGB")), ()
