"""Several pictures as their library gives them: pages of a TIFF, pictures of an MPO, frames of an AVIF."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL import AvifImagePlugin, Image, MpoImagePlugin
from PIL import TiffImagePlugin as Tiff

from scanfleet.images.frames import MOST_LOOKED_AT, shown_seconds
from scanfleet.images.moving import ifds
from scanfleet.images.stills import jpeg, zeros
from scanfleet.images.stills.still import Asked, Shown, read, require_size, turn_of
from scanfleet.images.types import DAMAGE

MP_ENTRIES = 0xB002  # tag of the MP index
THUMBNAIL = "Large Thumbnail"  # as Pillow names its type
# A picture that holds what a screen needs to show another one brighter, and no view of its own.
GAIN_MAPS = (b"hdrgm:", b"aux:hdrgainmap", b"urn:iso:std:iso:ts:21496")
METADATA_BYTES = 1 << 16


class TiffPages:
    """The pages of a TIFF that are pictures, as a list of where they are."""

    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, opened: Tiff.TiffImageFile, data: bytes, asked: Asked, pages: list[ifds.Page]) -> None:
        self._opened, self._data, self._asked, self._pages = opened, data, asked, pages
        self.n_frames = len(pages)
        self._notes = () if pages[0].number == 0 else ("pages that are marked as reduced copies or masks are left out",)
        self.n_pixels = max(page.width * page.height for page in pages)

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        for number in numbers:
            self._opened.seek(self._pages[number].number)
            shown = read(self._opened, self._data, self._asked)
            image = shown.image.copy() if shown.image is self._opened else shown.image  # the next page takes its place
            yield shown._replace(image=image, notes=self._notes + shown.notes)


class MpoPictures:
    """The views in an MPO: JPEGs one after the other."""

    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, files: list[bytes], asked: Asked) -> None:
        self._files, self._asked = files, asked
        self.n_frames = len(files)
        sizes = []
        for data in files:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
                sizes.append(opened.width * opened.height)
        self.n_pixels = max(sizes)

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        for number in numbers:
            data = self._files[number]
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
                yield read(opened, data, self._asked)._replace(format="MPO")


class AvifSequence:
    """An animated AVIF. A frame may need those before it."""

    sequential = True
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, opened: AvifImagePlugin.AvifImageFile, data: bytes, asked: Asked) -> None:
        self._opened, self._data, self._asked = opened, data, asked
        self.n_frames = opened.n_frames
        self.n_pixels = opened.width * opened.height

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        require_size(self._opened.size, self._asked.max_pixels)
        zeros.check_sequence(self._data)
        turn, wanted, seconds = turn_of(self._opened), frozenset(numbers), 0.0
        for number in range(max(numbers) + 1):
            self._opened.seek(number)
            self._opened.load()
            if number in wanted:
                yield Shown(self._opened.copy(), self._opened.size, "AVIF", turn, (), round(seconds, 3))
            seconds += shown_seconds(self._opened.info.get("duration", 0) / 1000)


def tiff_pages(opened: Tiff.TiffImageFile, data: bytes, asked: Asked) -> TiffPages | None:
    """The pages that are pictures; None where that is one, or where all are reduced copies. Raises ImageError."""
    everything = list(ifds.pages(data))
    pages = [page for page in everything if page.is_picture or (page.is_reduced and not _is_smaller(page, everything))]
    return TiffPages(opened, data, asked, pages) if len(pages) > 1 else None


def _is_smaller(page: ifds.Page, pages: list[ifds.Page]) -> bool:
    """Return True if a page that calls itself a reduced copy is smaller than another one."""
    return any(
        (other.is_picture or other.is_reduced) and page.width * page.height < other.width * other.height
        for other in pages
    )


def mpo_pictures(opened: MpoImagePlugin.MpoImageFile, data: bytes, asked: Asked) -> MpoPictures | None:
    """The pictures but thumbnails and gain maps; None where that is one.

    Programs that save a photograph anew keep its index, and often drop the pictures that it names: those are no loss.
    """
    files = [data]
    entries = opened.mpinfo[MP_ENTRIES] if opened.mpinfo else []
    for number, entry in enumerate(entries[1:], start=1):
        try:
            opened.seek(number)
        except DAMAGE:
            if data[opened.offset : opened.offset + 2] == jpeg.SOI:
                raise
            continue
        file = data[opened.offset : opened.offset + entry["Size"]]
        hidden = any(name in file[:METADATA_BYTES] for name in GAIN_MAPS)
        if not hidden and not entry["Attribute"]["MPType"].startswith(THUMBNAIL):
            files.append(file)
    opened.seek(0)
    return MpoPictures(files, asked) if len(files) > 1 else None
