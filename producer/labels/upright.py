"""Decodes an image in a child process, and notes how its stored picture is turned: labels may be about that."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import ExifTags, Image

from scanfleet.images.decoding import decode as decode_image
from scanfleet.images.formats import FORMATS
from scanfleet.images.types import DAMAGE, Decoded, Enough

PREFIX = "stored with EXIF orientation "  # of the note; producer.labels.fetching reads it


def decode(data: bytes, *, max_pixels: int, enough: Enough | None = None, stretch: bool = True) -> Decoded:
    """Return what scanfleet.images.decode returns, with a note of the EXIF orientation. Raises ImageError."""
    decoded = decode_image(data, max_pixels=max_pixels, enough=enough, stretch=stretch)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != (decoded.height, decoded.width) or decoded.width == decoded.height:
                return decoded  # not turned, or no size could tell it; a PNG would be decoded again for its EXIF data
            orientation = opened.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:  # of EXIF data alone: the picture was decoded
        return decoded
    if not isinstance(orientation, int):
        return decoded
    return replace(decoded, notes=(f"{PREFIX}{orientation}", *decoded.notes))
