"""TIFF: which page, what its samples mean, and whether all of its strips are there."""

from __future__ import annotations

import io

from PIL import Image
from PIL import TiffImagePlugin as Tiff

from scanfleet.errors import ImageError
from scanfleet.images import samples
from scanfleet.images.samples import Notes
from scanfleet.images.stills import strips
from scanfleet.images.types import DAMAGE, failure

SUBFILE, OLD_SUBFILE, PHOTOMETRIC, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 254, 255, 262, 330, 338, 339  # tags
COLOUR_MAP = 320

REDUCED, MASK = 1, 4  # bits of SUBFILE
OLD_REDUCED = 2
MOST_PAGES = 64  # looked at for one that is no reduced copy
SIGNED, FLOAT = 2, 3
WHITE_IS_ZERO = 0

# Layouts that Pillow can unpack and does not list: 12 bits in files of the other byte order, and inverted.
for _order, _suffix in ((b"II", ""), (b"MM", "B")):
    for _photometric in (WHITE_IS_ZERO, 1):
        for _bits, _modes in ((12, ("I;16", "I;12")), (16, (f"I;16{_suffix}",) * 2), (32, ("I", f"I;32{_suffix}"))):
            Tiff.OPEN_INFO.setdefault((_order, _photometric, (1,), 1, (_bits,), ()), _modes)


def choose_page(opened: Tiff.TiffImageFile) -> Notes:
    """Go to the first page that is neither a reduced copy nor a mask, or where all are, to the largest one.

    Raises ImageError.
    """
    n_pixels: list[int] = []  # of reduced copies
    chosen: int | None = None
    while len(n_pixels) < MOST_PAGES:
        try:
            opened.seek(len(n_pixels))
        except EOFError:
            break
        tags = opened.tag_v2
        if not (tags.get(SUBFILE, 0) & (REDUCED | MASK) or tags.get(OLD_SUBFILE) == OLD_REDUCED):
            chosen = len(n_pixels)
            break
        if SUB_IFDS in tags:
            raise failure("unsupported", "the pages are reduced copies of a picture that is no page (as in raw photos)")
        n_pixels.append(opened.width * opened.height)
    page = n_pixels.index(max(n_pixels)) if chosen is None else chosen
    opened.seek(page)
    return () if page == 0 else (f"page {page + 1} is read: others are marked as reduced copies",)


def read(opened: Tiff.TiffImageFile, data: bytes, *, stretch: bool) -> tuple[Image.Image, Notes]:
    """The page as an 8-bit picture, perhaps with transparency. Raises ImageError."""
    tags = opened.tag_v2
    bits, formats = strips.numbers(tags, strips.BITS, 1), strips.numbers(tags, SAMPLE_FORMAT, 1)
    if FLOAT in formats:
        raise failure("unsupported", "floating point samples have no defined white")
    if SIGNED in formats and min(bits) < 16:
        raise failure("unsupported", f"signed samples of {min(bits)} bits have no defined black and white")
    raw_planes = tags.get(strips.PLANAR) == strips.SEPARATE and tags.get(strips.COMPRESSION, 1) == strips.RAW
    if raw_planes and max(bits) > 8 and len(bits) > 1:
        raise failure("unsupported", f"planes of {max(bits)} bits")
    strips.require_all(tags, data)
    opened.load()
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if opened.mode == "I" or opened.mode.startswith("I;16"):
        return samples.grey(opened, bits=bits[0], signed=SIGNED in formats, inverted=inverted, stretch=stretch)
    image: Image.Image = opened
    if image.mode == "RGBA" and EXTRA_SAMPLES not in tags:
        image = image.convert("RGB")  # nothing says that the fourth sample is opacity
    if image.mode == "La":  # multiplied by its opacity already
        image = image.convert("LA")
    if image.mode == "P" and max(tags.get(COLOUR_MAP, (256,))) < 256:
        image = image.copy()  # some write 8-bit colours where 16-bit ones belong, which makes all of them black
        image.putpalette(bytes(tags[COLOUR_MAP]), "RGB;L")
    if max(bits) == 16 and image.mode in ("RGB", "RGBA"):
        return samples.colour(image, data, opened.tell(), stretch=stretch)
    return image, ()


def why_not_opened(data: bytes) -> ImageError:
    """Why Pillow has not opened a TIFF: it does not know the layout of its pixels, or the file is damaged."""
    try:
        Tiff.TiffImageFile(io.BytesIO(data)).close()
    except DAMAGE as error:
        if "unknown pixel mode" in str(error):
            return failure("unsupported", "samples of a size or an order that is not read")
        return failure("truncated", f"{type(error).__name__}: {error}")
    return failure("truncated", "the first page cannot be read")
