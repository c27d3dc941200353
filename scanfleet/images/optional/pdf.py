"""Pages of a PDF, drawn by PDFium as a viewer draws them, without scripts."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Sequence

from scanfleet.errors import ImageError
from scanfleet.images.optional import extras
from scanfleet.images.stills import jpeg
from scanfleet.images.stills.still import Asked, Shown
from scanfleet.images.types import failure

MOST_LOOKED_AT = 64  # pages: drawing one may cost much more than its pixels
DPI = 150
POINTS = 72  # to the inch
END, END_WITHIN = b"%%EOF", 2048
STREAM = re.compile(rb"<<((?:[^<>]|<[^<]|>[^>]|<<[^<>]*>>)*)>>\s*stream\r?\n")
STREAM_END = b"endstream"
FILTER = re.compile(rb"/Filter\s*\[?\s*/(\w+)")
ENCRYPTED = re.compile(rb"/Encrypt\b")
PORTION = 1 << 20
CMYK = "Unsupported color conversion"  # says libjpeg, asked for its greys


class Pdf:
    """The pages of a document in memory."""

    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, data: bytes, asked: Asked) -> None:
        self._pdfium = extras.load("pypdfium2")
        require_whole(data)
        try:
            self._document = self._pdfium.PdfDocument(data)
            self.n_frames = len(self._document)
            self._document.init_forms()  # a form field may be what a page shows
        except self._pdfium.PdfiumError as error:
            reason = "unsupported" if "assword" in str(error) or "ecurity" in str(error) else "corrupt"
            raise failure(reason, f"PDFium: {error}") from None
        if not self.n_frames:
            raise failure("corrupt", "no pages")
        self._asked = asked
        self.n_pixels = max(math.prod(self._size(number)[1]) for number in range(min(self.n_frames, MOST_LOOKED_AT)))

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        for number in numbers:
            scale, _ = self._size(number)
            try:
                page = self._document[number]
                bitmap = page.render(scale=scale, may_draw_forms=True)
            except self._pdfium.PdfiumError as error:
                raise failure("corrupt", f"page {number + 1}: {error}") from None
            image = bitmap.to_pil().convert("RGB").copy()
            bitmap.close()
            page.close()
            yield Shown(image, image.size, "PDF")

    def _size(self, number: int) -> tuple[float, tuple[int, int]]:
        """The scale that a page is drawn at, and its pixels: 150 dpi, or fewer where those are over the limit."""
        try:
            width, height = self._document.get_page_size(number)
        except self._pdfium.PdfiumError as error:
            raise failure("corrupt", f"page {number + 1}: {error}") from None
        if not (0 < width < 1e6 and 0 < height < 1e6):
            raise failure("corrupt", f"page {number + 1} is {width} x {height} points")
        scale = DPI / POINTS
        if (whole := (width * scale + 1) * (height * scale + 1)) > self._asked.max_pixels:
            scale *= math.sqrt(self._asked.max_pixels / whole) * 0.999
        return scale, (max(1, math.ceil(width * scale)), max(1, math.ceil(height * scale)))


def open_file(data: bytes, asked: Asked) -> Pdf:
    """Raises ImageError."""
    return Pdf(data, asked)


def require_whole(data: bytes) -> None:
    """Raises ImageError where the end is missing or a stream is damaged. PDFium draws what is left, without a word."""
    if END not in data[-END_WITHIN:]:
        raise failure("truncated", f"{END.decode()} is missing")
    if ENCRYPTED.search(data):
        return
    for found in STREAM.finditer(data):
        name = FILTER.search(found[1])
        end = data.find(STREAM_END, found.end())
        if end < 0:
            raise failure("truncated", f"the stream at byte {found.end()} has no end")
        body = data[found.end() : end]
        if name is not None and name[1] == b"FlateDecode" and not _unpacks(body):
            raise failure("corrupt", f"the stream at byte {found.end()} cannot be unpacked")
        if name is not None and name[1] == b"DCTDecode":
            _require_jpeg(body.rstrip(b"\r\n"))


def _unpacks(body: bytes) -> bool:
    if not body.strip(b"\r\n"):
        return True
    unpacker = zlib.decompressobj()
    try:
        while body and not unpacker.eof:
            unpacker.decompress(body, PORTION)
            body = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return unpacker.eof


def _require_jpeg(body: bytes) -> None:
    try:
        jpeg.check(body, n_components=3)
    except ImageError as error:
        if CMYK not in error.detail:
            raise
        jpeg.check(body, n_components=4)
