"""The protocol between a worker and a decoder child: lengths, numbers and raw pixels, never a pickle.

A turn: the worker sends what it wants and one file or several, the child answers for the first ones of them, at least
for one. Pixels are packed RGB. They lie in memory that both share (scanfleet.decoding.region), or, of the last file
that is answered, follow in the pipe, strip after strip.
The child imports this module: nothing heavy here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scanfleet.images.fit import Fit
from scanfleet.images.types import PICKS, Enough, FrameChoice

# Files; pixels and short side that are enough, or 0 and 0: all of them; the number of a frame, 0, 0; or 0, how many
# frames at most, and the place in PICKS of the way to choose them; a Fit, or zeros. Then the length of each file, and
# the files.
TURN = struct.Struct(">QQQQQQQQQ?B")
LENGTH = struct.Struct(">Q")
READY = b"ready"

# An answer is a COUNT of frames and then those, or 0 and a reason and its detail.
COUNT = struct.Struct(">H")
# Width and height of the file's picture, of the decoded one, and of what is sent; EXIF orientation, number of notes,
# frames of the file, number of the frame, its seconds, name of the format; place of the pixels in the shared memory,
# and their bytes.
FRAME = struct.Struct(">6QBBQqd16sqQ")
NONE = -1  # the only picture of a file; pixels in the pipe
MAX_ANSWER_BYTES = 8192  # of a frame or a refusal
MAX_DETAIL_CHARS = 500
MAX_NOTES = 8
MAX_NOTE_CHARS = 200
CHANNELS = 3  # packed RGB
STRIP_BYTES = 1 << 18  # stays in the processor's cache, and neither side holds a second copy of the image

MOST_FILES = 8  # of one turn
TURN_BYTES = 1 << 20  # of its files together, if there are several
SHARED_CPU_SECONDS = 2.0  # for an image that is not alone: one that takes longer is decoded again, alone


class Wanted(NamedTuple):
    """What is wanted of each file of a turn: one frame of it, or those of a choice. fit: resize them so."""

    enough: Enough | None = None
    frame: int = 0
    choice: FrameChoice | None = None
    fit: Fit | None = None

    @property
    def most_frames(self) -> int:
        return 1 if self.choice is None else self.choice.max

    def pack(self, files: Sequence[bytes]) -> bytes:
        """Return the bytes that precede the files."""
        which = (self.frame, 0, 0) if self.choice is None else (0, self.choice.max, PICKS.index(self.choice.pick))
        head = TURN.pack(len(files), *(self.enough or (0, 0)), *which, *(self.fit or (0, 0, 0, False, 0)))
        return head + b"".join(LENGTH.pack(len(data)) for data in files)


def unpack_turn(head: bytes) -> tuple[int, Wanted]:
    """Return the number of files and what is wanted of them."""
    n, pixels, short_side, frame, most, pick, *fit = TURN.unpack(head)
    enough = Enough(pixels, short_side) if pixels else None
    choice = FrameChoice(most, PICKS[pick]) if most else None
    return n, Wanted(enough, frame, choice, Fit(*fit) if fit[0] else None)


def cpu_seconds(limit: float, n_files: int) -> float:
    """Return the limit for each image of a turn."""
    return limit if n_files == 1 else min(limit, SHARED_CPU_SECONDS)


def pack_text(text: str) -> bytes:
    body = text.encode("utf-8", "replace")
    return COUNT.pack(len(body)) + body


def pack_seconds(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of each strip, from top to bottom."""
    rows = max(1, STRIP_BYTES // (CHANNELS * width))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)
