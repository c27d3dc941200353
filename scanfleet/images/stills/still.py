"""The picture that an opened file stands at, as a viewer shows it, in 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import AvifImagePlugin, ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from scanfleet.images import ground
from scanfleet.images.frames import MOST_LOOKED_AT
from scanfleet.images.samples import Notes
from scanfleet.images.stills import jpeg, png, tiff, zeros
from scanfleet.images.types import DAMAGE, Decoded, Enough, Frame, failure

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


class Asked(NamedTuple):
    """The request of a caller."""

    max_pixels: int
    enough: Enough | None
    stretch: bool


class Shown(NamedTuple):
    """A picture before it is turned upright and laid on its ground."""

    image: Image.Image  # 8 bits, perhaps with transparency; smaller than `whole` where less was enough
    whole: tuple[int, int]
    format: str
    turn: Image.Transpose | None = None
    notes: Notes = ()
    seconds: float | None = None


class Still:
    """A file with one picture."""

    n_frames = 1
    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, opened: Image.Image, data: bytes, asked: Asked) -> None:
        self._notes = _choose_page(opened)
        self._opened, self._data, self._asked = opened, data, asked
        self.n_pixels = opened.width * opened.height

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        for _ in numbers:
            shown = read(self._opened, self._data, self._asked)
            yield shown._replace(notes=self._notes + shown.notes)


def read(opened: Image.Image, data: bytes, asked: Asked) -> Shown:
    """Read the picture that `opened` stands at. Raises ImageError and what is in DAMAGE."""
    whole = opened.size
    require_size(whole, asked.max_pixels)
    image, notes = _pixels(opened, data, asked)
    return Shown(image, whole, opened.format or "unknown", turn_of(opened), notes)


def finish(shown: Shown, *, number: int = 0, n_frames: int = 1) -> Decoded:
    """Turn the picture upright and lay it on its ground."""
    image, turn = shown.image, shown.turn
    width, height = reversed(shown.whole) if turn in SIDEWAYS else shown.whole
    image, about_ground = _to_rgb(image if turn is None else image.transpose(turn))
    return Decoded(
        image=image,
        width=width,
        height=height,
        format=shown.format,
        notes=shown.notes + about_ground,
        frame=None if n_frames == 1 else Frame(number, shown.seconds),
        n_frames=n_frames,
        orientation=next((number for number, applied in TURNS.items() if applied is turn), 1),
    )


def require_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raises ImageError for a picture over the limit."""
    if size[0] * size[1] > max_pixels:
        text = f"{size[0]} x {size[1]}"
        raise failure("too_many_pixels", f"{text} is over the limit of {max_pixels} pixels")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes the picture upright. Damaged EXIF data give none; the pixels are sound."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _choose_page(opened: Image.Image) -> Notes:
    """Go to the picture that a viewer shows first."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return tiff.choose_page(opened)
    return ()


def _pixels(opened: Image.Image, data: bytes, asked: Asked) -> tuple[Image.Image, Notes]:
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


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Notes]:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return ground.lay(image.convert("RGBA"))
    return (image if image.mode == "RGB" else image.convert("RGB")), ()
