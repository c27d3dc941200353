"""JPEG pixels, by libjpeg-turbo through simplejpeg, because it reports what it had to fill in.

Pillow calls the same library with the same settings, to the same bits, but drops its warnings: where the scan data end
early it returns a picture that is grey from there on. simplejpeg raises the first warning. Where that one concerns the
header alone, the header is tidied and the file decoded again: a second warning may hide behind the first.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import simplejpeg
from PIL import Image, JpegImagePlugin

from scanfleet.images.types import Enough, failure

SCALES = (8, 4, 2)  # what the decoder can divide both sides by, at less cost than decoding all pixels
SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = (0xC2, 0xCA)
APP0, APP14 = 0xE0, 0xEE
NEEDED = SOF | {0xC4, 0xCC, 0xDB, 0xDD, SOS[1], APP0, APP14}  # tables and what tells the colour space
N_COEFFICIENTS = 64
HOLE = bytes(32)
BITS = 8  # of a sample
DHT = 0xC4
TABLE_HEAD = 17  # bytes of a Huffman table before its symbols
END_OF_BLOCK = 0x00
TRANSFORMS = {3: b"\0\1", 4: b"\0\2"}  # of Adobe's segment, by number of components

# Warnings of libjpeg (jerror.h) that concern the header alone: every viewer shows the whole picture.
OF_THE_HEADER = re.compile(
    r"unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters|bad ICC marker"
    r"|extraneous bytes before marker 0x(?!d[0-9])"
)
UNKNOWN_SUBSAMPLING = "subsampling level"
NO_EOI = "Premature end of JPEG file"
PADDED = re.compile(r": (\d+) extraneous bytes before marker 0xd9")
MOST_PADDING = 16  # bytes between the last scan and EOI; some cameras write a few
MOST_ATTEMPTS = 3  # as it is, with EOI, with a tidy header

T = TypeVar("T")


class _Segment(NamedTuple):
    marker: int
    body: bytes
    start: int  # of its marker
    end: int


def read(opened: JpegImagePlugin.JpegImageFile, data: bytes, enough: Enough | None) -> Image.Image:
    """Decode at the smallest size that is enough. Raises ImageError."""
    width, height = _size(opened.size, enough)
    least = {} if (width, height) == opened.size else {"min_width": width, "min_height": height, "min_factor": 2}
    colour = "CMYK" if opened.mode == "CMYK" else "RGBX"
    pixels = _whole(data, lambda file, strict: simplejpeg.decode_jpeg(file, colour, strict=strict, **least))
    size = (pixels.shape[1], pixels.shape[0])
    if colour == "CMYK":
        raw_mode = (opened.tile[0].args or ("CMYK",))[0]  # inverted or not
        return Image.frombytes("CMYK", size, pixels, "raw", raw_mode)
    # As Image.frombuffer does for other modes, without a copy: Pillow, too, keeps RGB in four bytes a pixel.
    core = Image.core  # type: ignore[attr-defined]
    image = Image.new("RGB", (0, 0))._new(core.map_buffer(pixels, size, "raw", 0, ("RGB", 0, 1)))
    image.readonly = 1
    return image


def why_not_opened(data: bytes) -> str | None:
    """Return the error that keeps Pillow from opening a JPEG with a sound header; None if the header is not sound."""
    for segment in _segments(data):
        if segment.marker in SOF and segment.body and segment.body[0] != BITS:
            return f"a JPEG of {segment.body[0]} bits"
    return None


def check(data: bytes, *, n_components: int) -> None:
    """Raises ImageError unless all of the picture is there. For a stream that another library decodes."""
    colour = "CMYK" if n_components == 4 else "GRAY"
    _whole(data, lambda file, strict: simplejpeg.decode_jpeg(file, colour, strict=strict))


def _size(size: tuple[int, int], enough: Enough | None) -> tuple[int, int]:
    """The smallest size that is enough."""
    if enough is not None:
        for scale in SCALES:
            width, height = math.ceil(size[0] / scale), math.ceil(size[1] / scale)
            if width * height >= enough.pixels and min(width, height) >= enough.short_side:
                return width, height
    return size


def _whole(data: bytes, decode: Callable[[bytes, bool], T]) -> T:
    """Call `decode` with the file, or with one that says the same without a harmless warning. Raises ImageError."""
    ended, tidy, warning = True, False, ""
    for _ in range(MOST_ATTEMPTS):
        try:
            pixels = decode(data, True)
        except ValueError as error:
            warning = str(error)
        else:
            _require_all_scans(data, ended=ended)
            return pixels
        if warning == NO_EOI and ended:
            data, ended = data + EOI, False
        elif OF_THE_HEADER.search(warning) and not tidy:
            data, tidy = _tidied(data), True
        elif ended and (padding := PADDED.search(warning)) and int(padding[1]) <= MOST_PADDING:
            _require_all_scans(data, ended=ended)
            return decode(data, False)
        else:
            break
    if UNKNOWN_SUBSAMPLING in warning:  # Pillow could read it, and would not tell what is missing
        raise failure("unsupported", f"a JPEG of this kind of CMYK: {warning}")
    raise failure("truncated", warning)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Up to the first SOS, that one included; bytes between segments are skipped."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # no segment begins here
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            yield _Segment(marker, data[at + 4 : end], at, end)
            if marker == SOS[1]:
                return
            at = end


def _tidied(data: bytes) -> bytes:
    """With a header of the segments that make the pixels, and nothing in it that libjpeg warns of."""
    header = [data[:2]]
    segments = list(_segments(data))
    frame = next((segment for segment in segments if segment.marker in SOF and len(segment.body) > 5), None)
    n_components = frame.body[5] if frame is not None else 0
    progressive = frame is not None and frame.marker in PROGRESSIVE
    for segment in segments:
        marker, body = segment.marker, bytearray(segment.body)
        if marker == APP0 and body.startswith(b"JFIF\0") and len(body) > 6:
            body[5:7] = b"\1\2"
        elif marker == APP14 and body.startswith(b"Adobe") and len(body) > 11:
            known = TRANSFORMS.get(n_components, bytes(1))
            body[11] = body[11] if body[11] in known else known[-1]  # what libjpeg takes an unknown one for
        elif marker == SOS[1] and not progressive:
            body[-3:] = bytes((0, N_COEFFICIENTS - 1, 0))
        if marker in NEEDED:
            header.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    return b"".join(header) + data[segments[-1].end if segments else 2 :]


def _require_all_scans(data: bytes, *, ended: bool) -> None:
    """Raises ImageError where scans are missing, of which libjpeg says nothing.

    That is a file that was cut between two scans: whole components, or what makes them sharp, never came.
    """
    frame: _Segment | None = None
    for segment in _segments(data):
        if segment.marker in SOF:
            frame = segment
    assert frame is not None  # it was decoded
    components = frame.body[6 : 6 + 3 * frame.body[5] : 3]
    if frame.marker not in PROGRESSIVE and segment.body[0] == len(components):
        _require_no_hole(data, segment)
        return
    missing = {component: set(range(N_COEFFICIENTS)) for component in components}
    for names, lowest, highest, precise in _scans(data, segment.start):
        for name in names if precise else ():
            missing.get(name, set()).difference_update(range(lowest, highest + 1))
    if frame.marker not in PROGRESSIVE:
        lacking: Any = [name for name in components if len(missing[name]) == N_COEFFICIENTS]
    else:  # an encoder may leave out fine colour, but nothing in a file that is cut
        required = components if not ended else components[:1]
        lacking = [name for name in components if missing[name] and (name in required or 0 in missing[name])]
    if lacking:
        raise failure("truncated", f"scans of {len(lacking)} of {len(components)} components are missing")


def _require_no_hole(data: bytes, scan: _Segment) -> None:
    """Raises ImageError where a run of zeros stands in the place of codes.

    Blocks read from zeros may be as many as were lost, by chance. Zeros are flat blocks where the tables give the
    shortest code to the end of a block. With other tables they are blocks that no picture has.
    """
    at = data.find(HOLE, scan.end)
    if at < 0 or data.find(EOI, scan.end, at) >= 0:
        return
    wanted = 0x10 | scan.body[2] & 15  # the AC table of the first component
    for segment in _segments(data):
        tables = segment.body if segment.marker == DHT else b""
        while len(tables) > TABLE_HEAD:
            end = TABLE_HEAD + sum(tables[1:TABLE_HEAD])
            if tables[0] == wanted and tables[TABLE_HEAD] != END_OF_BLOCK:
                raise failure("corrupt", "a run of zeros stands in the place of scan data")
            tables = tables[end:]


def _scans(data: bytes, at: int) -> Iterator[tuple[bytes, int, int, bool]]:
    """(components, first and last coefficient, whether these are complete to the last bit) of each scan.

    at: of the first one. In scan data the byte 255 is followed by 0 or by a restart marker.
    """
    end = data.find(EOI, at)
    while 0 <= at < end:
        n = data[at + 4]
        names = data[at + 5 : at + 5 + 2 * n : 2]
        lowest, highest, approximation = data[at + 5 + 2 * n : at + 8 + 2 * n]
        yield names, lowest, highest, approximation & 15 == 0
        at = data.find(SOS, at + 2)
