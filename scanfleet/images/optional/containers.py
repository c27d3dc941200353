"""Is all of a video file there? Its decoders make up what is missing, most of them without a word."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from scanfleet.images.types import failure

MATROSKA = b"\x1aE\xdf\xa3"
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675  # of Matroska
# What lies in a segment, and in a cluster.
IN_SEGMENT = {CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xEC, 0xBF, 0x5854, 0xAF}
UNKNOWN = -1  # length
SIMPLE_BLOCK, BLOCK_GROUP, BLOCK = 0xA3, 0xA0, 0xA1
TRACKS, TRACK, TRACK_NUMBER, TRACK_KIND, CODEC = 0x1654AE6B, 0xAE, 0xD7, 0x83, 0x86  # of Matroska
PICTURES = b"\1"  # the kind of a track
UNPACKED = (b"V_MJPEG", b"V_UNCOMPRESSED")  # may hold runs of zeros
PICTURE_TRACK = re.compile(rb"hdlr.{4}(?:\0{4}|mhlr)vide", re.DOTALL)  # of MP4 and MOV
# Coded pictures hold no run of zeros; padding and sound may.
RUN = bytes(32)


def require_whole(data: bytes) -> None:
    """Raises ImageError where the file ends before it says, or zeros or other bytes stand in the place of pictures."""
    try:
        if data.startswith(MATROSKA):
            _check_matroska(data)
        else:
            _check_boxes(data)
    except (IndexError, struct.error):
        raise failure("truncated", f"the file of {len(data)} bytes ends within its structure") from None


def _check_boxes(data: bytes) -> None:
    """MP4 and MOV."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        length = int.from_bytes(data[at + 8 : at + 16]) if length == 1 else length or len(data) - at
        at += max(8, length)
    _require(data, at)


def _check_matroska(data: bytes) -> None:
    at = 4
    length, at = _number(data, at)
    name, start, end = next(_elements(data, at + length, len(data)), (0, 0, 0))
    if name != SEGMENT:
        raise failure("truncated", "no segment")
    if end == UNKNOWN:
        return  # written as it was recorded
    _require(data, end)
    coded = {number for number, codec in _picture_tracks(data, start, end) if not codec.startswith(UNPACKED)}
    for name, first, last in _elements(data, start, end):
        if name not in IN_SEGMENT or last > end:
            raise failure("corrupt", f"no element of a segment begins before byte {first}")
        if name == CLUSTER and last != UNKNOWN:
            _check_cluster(data, first, last, coded)


def _check_cluster(data: bytes, start: int, end: int, coded: set[int]) -> None:
    for name, first, last in _elements(data, start, end):
        if name not in IN_CLUSTER or last > end:
            raise failure("corrupt", f"no element of a cluster begins before byte {first}")
        if name == SIMPLE_BLOCK and _number(data, first)[0] in coded:
            _require_no_run(data, first, last)
        if name == BLOCK_GROUP:
            for kind, at, after in _elements(data, first, last):
                if kind == BLOCK and _number(data, at)[0] in coded:
                    _require_no_run(data, at, after)


def n_pictures(data: bytes) -> int:
    """Return the number of tracks that hold pictures: a reader takes one of them. Raises ImageError."""
    if not data.startswith(MATROSKA):
        return len(PICTURE_TRACK.findall(data))
    try:
        length, at = _number(data, 4)
        _, start, end = next(_elements(data, at + length, len(data)), (0, 0, 0))
        return sum(1 for _ in _picture_tracks(data, start, len(data) if end == UNKNOWN else end))
    except (IndexError, struct.error):
        raise failure("truncated", "the file ends within its structure") from None


def _picture_tracks(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and codec of each track of pictures in a segment of Matroska."""
    for name, first, last in _elements(data, start, end):
        if name != TRACKS:
            continue
        for kind, at, after in _elements(data, first, last):
            values = {key: data[begin:stop] for key, begin, stop in _elements(data, at, after)} if kind == TRACK else {}
            if values.get(TRACK_KIND) == PICTURES:
                yield int.from_bytes(values.get(TRACK_NUMBER, b"")), values.get(CODEC, b"")
        return


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(name, start, end) of each element; the end of one of unknown length is UNKNOWN, and nothing follows it."""
    while at < end:
        n = 9 - data[at].bit_length()
        name = int.from_bytes(data[at : at + n])
        length, start = _number(data, at + n)
        yield name, start, UNKNOWN if length == UNKNOWN else start + length
        if length == UNKNOWN:
            return
        at = start + length


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of Matroska, and where it ends."""
    n = 9 - data[at].bit_length()
    most = (1 << 7 * n) - 1
    value = int.from_bytes(data[at : at + n]) & most
    return (UNKNOWN if value == most else value), at + n


def _require(data: bytes, end: int) -> None:
    if len(data) < end:
        raise failure("truncated", f"{len(data)} of {end} bytes")


def _require_no_run(data: bytes, start: int, end: int) -> None:
    if data.find(RUN, start, end) >= 0:
        raise failure("corrupt", f"a run of zeros stands in the place of a picture after byte {start}")


def seconds_cut(data: bytes) -> float:
    """Seconds at the start of the longest-cut track that an edit list of MP4 or MOV leaves out (ISO/IEC 14496-12).

    A film that was trimmed without encoding it again still holds the frames from the key frame before.
    """
    longest, at = 0.0, data.find(b"elst")
    while at >= 0:
        header = data.find(b"mdhd", at)  # of the same track: it follows the edit list
        if header < 0:
            break
        try:
            wide = data[at + 4] == 1
            (cut,) = struct.unpack_from(">q" if wide else ">i", data, at + (20 if wide else 16))
            (scale,) = struct.unpack_from(">I", data, header + (24 if data[header + 4] == 1 else 16))
        except (struct.error, IndexError):
            break
        longest = max(longest, cut / scale if scale else 0.0)
        at = data.find(b"elst", at + 4)
    return longest
