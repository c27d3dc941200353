"""Input and output of a decoder."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from scanfleet.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

# What Pillow's decoders raise on damaged files; OSError also for "image file is truncated". Found by fuzzing, or read
# in the source. No wider net: an error that stands for a bug of Pillow's or ours must not pass for damage.
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


class Enough(NamedTuple):
    """The caller needs no more than this many pixels in all, and this many along the short side."""

    pixels: int
    short_side: int


Pick = Literal["mixed", "even", "first"]
PICKS: tuple[Pick, ...] = ("mixed", "even", "first")


class FrameChoice(NamedTuple):
    """How many frames of a file to decode, and which: what scanfleet.checks.frames.FrameSettings says."""

    max: int
    pick: Pick


class Frame(NamedTuple):
    """Which of a file's pictures this is."""

    number: int  # from 0, in the order that a viewer shows them
    seconds: float | None  # since the first one; None for pages, which have no time


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a file says of a picture in it.

    `notes` name each choice that a viewer might have made differently (the ground under transparent pixels, stretched
    greys, the page of a TIFF).
    `frame` is None where the file holds one picture. `n_frames` counts those of the file, decoded or not.
    """

    width: int  # pixels of the file's picture, upright
    height: int
    format: str
    notes: tuple[str, ...] = ()
    frame: Frame | None = None
    n_frames: int = 1
    orientation: int = 1  # by EXIF, of the stored picture: what was turned upright


@dataclass(frozen=True, kw_only=True)
class Decoded(Told):
    """An upright 8-bit RGB image. `image` is smaller than width x height where less was enough."""

    image: Image.Image


@dataclass(frozen=True, kw_only=True)
class Fitted(Told):
    """An upright picture at the size of a scanfleet.images.fit.Fit."""

    rgb: bytearray  # 8 bits, row by row
    size: tuple[int, int]  # (width, height)
    decoded_size: tuple[int, int]  # before it was resized


def failure(reason: str, detail: str) -> ImageError:
    return ImageError(stage="decode", reason=reason, detail=detail)
