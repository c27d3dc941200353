"""How much decoders get: processes, memory, and files at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from scanfleet.config.settings import Settings
from scanfleet.decoding.protocol import CHANNELS, MOST_FILES, TURN_BYTES, Wanted
from scanfleet.decoding.region import REGION_BYTES

BYTES_A_PIXEL = 32  # 16-bit transparent pictures that must be turned hold four layers of four bytes, and some room
BYTES_A_FILE_BYTE = 3
SPARE_BYTES = 128 << 20


def memory_bytes(settings: Settings) -> int:
    """Return the memory that the largest allowed picture may take in a child, beyond the program itself."""
    pixels = BYTES_A_PIXEL * settings.max_image_pixels
    return SPARE_BYTES + pixels + BYTES_A_FILE_BYTE * settings.max_image_bytes


def default_children(settings: Settings) -> int:
    """Decoding is all computing: more processes than cores win nothing."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(settings.fetch_threads, cores)


def next_turn(files: Sequence[bytes], wanted: Wanted) -> list[bytes]:
    """Return the first files, at least one: as many as are small, and whose pictures find room at once."""
    turn, n_bytes = [files[0]], len(files[0])
    most = MOST_FILES if wanted.fit is None else min(MOST_FILES, REGION_BYTES // (CHANNELS * wanted.fit.most))
    for data in files[1:most]:
        n_bytes += len(data)
        if n_bytes > TURN_BYTES:
            break
        turn.append(data)
    return turn
