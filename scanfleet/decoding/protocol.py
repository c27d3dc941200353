"""The protocol between a worker and a decoder child: lengths, JSON and raw pixels, never a pickle.

Worker to child: REQUEST, the file. Child to worker: LENGTH, a header, and for pixels strip after strip of packed RGB;
the next frame, if the header says that there are more, follows in the same way.
The child imports this module: nothing heavy here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Bytes of the file; pixels and short side that are enough, or 0 and 0: all of them; and the number of a frame, 0, 0; or
# 0, how many frames at most, and the place in PICKS of the way to choose them.
REQUEST = struct.Struct(">QQQQQQ")
LENGTH = struct.Struct(">Q")
MAX_HEADER_BYTES = 8192
MAX_DETAIL_CHARS = 500
MAX_NOTES = 8
MAX_NOTE_CHARS = 200
CHANNELS = 3  # packed RGB
STRIP_BYTES = 1 << 18  # stays in the processor's cache, and neither side holds a second copy of the image


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of each strip, from top to bottom."""
    rows = max(1, STRIP_BYTES // (CHANNELS * width))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)
