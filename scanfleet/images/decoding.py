"""The pictures of a file, as a viewer shows them, in 8-bit RGB."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

# These plugins by name: else Pillow loads all it has, with the decoders of formats that are not accepted.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,
    Image,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from scanfleet.errors import ImageError
from scanfleet.images import frames
from scanfleet.images.formats import AVIF, FORMATS, TIFF, unsupported
from scanfleet.images.moving import apng, gif, pages, webp
from scanfleet.images.optional import extras
from scanfleet.images.stills import jpeg, png, tiff
from scanfleet.images.stills.still import Asked, Shown, Still, finish, require_size, turn_of
from scanfleet.images.types import DAMAGE, Decoded, Enough, FrameChoice, failure

# We compare the size in the header with our own limit; Pillow's global one only warns between 1x and 2x.
Image.MAX_IMAGE_PIXELS = None


class Pictures(Protocol):
    """A file with one picture or several."""

    @property
    def n_frames(self) -> int: ...

    @property
    def n_pixels(self) -> int:
        """Pixels of the largest frame, or of the parts that must be unpacked for it."""

    @property
    def sequential(self) -> bool:
        """True if a frame can only be reached through those before it."""

    @property
    def most_looked_at(self) -> int:
        """Frames, where each of them costs more than its pixels."""

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        """Yield these frames, which are in order. Raises ImageError and what is in DAMAGE."""


def decode(
    data: bytes, *, max_pixels: int, enough: Enough | None = None, stretch: bool = True, frame: int = 0
) -> Decoded:
    """Decode one picture of a file, the first or that with the number `frame`, to upright RGB.

    EXIF rotation is applied. Transparency is laid over white, or black or grey (scanfleet.images.ground). Samples of
    more than 8 bits are brought to 8, and with `stretch` those that are nearly black are made brighter
    (scanfleet.images.samples). A JPEG with more than `enough` is decoded at 1/2, 1/4 or 1/8 of its sides, in a fraction
    of the time; max_pixels counts the whole.
    Raises ImageError (stage decode): empty, not_an_image, unsupported, too_many_pixels, truncated, corrupt.
    """
    with _opened(data, Asked(max_pixels, enough, stretch)) as pictures:
        if frame >= frames.within_reach(pictures.n_frames, pictures.n_pixels, max_pixels) and pictures.sequential:
            raise failure("truncated", f"there is no frame {frame} within reach")
        if frame >= pictures.n_frames:
            raise failure("truncated", f"there is no frame {frame}: the file holds {pictures.n_frames}")
        (shown,) = pictures.read((frame,))
        return finish(shown, number=frame, n_frames=pictures.n_frames)


def decode_frames(
    data: bytes, *, max_pixels: int, frames: FrameChoice, enough: Enough | None = None, stretch: bool = True
) -> Iterator[Decoded]:
    """Decode the frames of a file that `frames` asks for, in order; the one picture of a file that holds no more.

    Together they have at most max_pixels: fewer are chosen else, but one. Raises ImageError as `decode` does, also
    where a frame is damaged that was only looked at to choose.
    """
    with _opened(data, Asked(max_pixels, enough, stretch)) as pictures:
        for number, shown in _chosen(pictures, frames, max_pixels):
            yield finish(shown, number=number, n_frames=pictures.n_frames)


def _chosen(pictures: Pictures, choice: FrameChoice, max_pixels: int) -> Iterator[tuple[int, Shown]]:
    n_frames, n_pixels = pictures.n_frames, pictures.n_pixels
    choice = frames.affordable(choice, n_pixels, max_pixels)
    reach = min(frames.within_reach(n_frames, n_pixels, max_pixels), pictures.most_looked_at)
    candidates = frames.candidates(n_frames, reach, choice, sequential=pictures.sequential)
    changes: list[float] = []
    if frames.needs_changes(len(candidates), choice):
        before = None
        for shown in pictures.read(candidates):
            small = frames.small_grey(shown.image)
            changes.append(frames.change(before, small))
            before = small
    numbers = [candidates[at] for at in frames.choose(len(candidates), changes, choice)]
    yield from zip(numbers, pictures.read(numbers), strict=True)


@contextmanager
def _opened(data: bytes, asked: Asked) -> Iterator[Pictures]:
    """Open a file, and turn what libraries raise of damaged ones into ImageError."""
    if not data:
        raise failure("empty", "the file has 0 bytes")
    try:
        if (kind := extras.kind_of(data)) is not None:
            yield _of_an_extra(kind, data, asked)
            return
        if data.startswith(png.SIGNATURE):
            data = png.checked(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            yield _several(opened, data, asked) or Still(opened, data, asked)
    except UnidentifiedImageError:
        raise _why_not_opened(data) from None
    except DAMAGE as error:
        raise failure("truncated", f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if data[4:8] != b"ftyp":  # only Pillow's AVIF decoder says so of a damaged file
            raise
        raise failure("corrupt", str(error)) from error


def _several(opened: Image.Image, data: bytes, asked: Asked) -> Pictures | None:
    """The pictures of a file that holds more than one. Raises ImageError."""
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):  # its pages differ in size
        require_size(
            opened.size, asked.max_pixels
        )  # before Pillow decodes the first picture for the EXIF data behind it
    match opened:
        case MpoImagePlugin.MpoImageFile():
            return pages.mpo_pictures(opened, data, asked)
        case TiffImagePlugin.TiffImageFile():
            return pages.tiff_pages(opened, data, asked)
        case GifImagePlugin.GifImageFile():
            return gif.animation(data, asked.max_pixels)
        case PngImagePlugin.PngImageFile() if opened.is_animated:
            return apng.animation(data, asked.max_pixels, turn_of(opened))
        case WebPImagePlugin.WebPImageFile() if opened.is_animated:
            return webp.animation(data, asked.max_pixels, turn_of(opened))
        case AvifImagePlugin.AvifImageFile() if opened.is_animated:
            return pages.AvifSequence(opened, data, asked)
    return None


def _of_an_extra(kind: str, data: bytes, asked: Asked) -> Pictures:
    module = importlib.import_module(f"scanfleet.images.optional.{kind}")
    opened: Pictures = module.open_file(data, asked)
    return opened


def _why_not_opened(data: bytes) -> ImageError:
    if data.startswith(TIFF):
        return tiff.why_not_opened(data)
    name = jpeg.why_not_opened(data) if data.startswith(jpeg.SOI) else unsupported(data)
    if name is not None:
        return failure("unsupported", f"{name} is not read")
    if data[8:12] in AVIF:
        return failure("truncated", "an AVIF header and no picture")
    return failure("not_an_image", f"no {', '.join(FORMATS)} header in {len(data)} bytes")
