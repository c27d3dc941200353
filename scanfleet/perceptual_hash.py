"""A perceptual hash of 64 bits: copies that were re-encoded or resized differ in few of them.

The perceptual hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): the lowest
frequencies of a small grey copy, each over or under their median. In plain Python, because the command line has
no numpy: 1.1 ms an image.

Mirrored, rotated or cropped copies have different hashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import mul

from PIL import Image

SIDE = 32  # pixels of the grey copy
FREQUENCIES = 8  # along each side, the constant left out
BITS = FREQUENCIES * FREQUENCIES
# Of 600 generated pictures of 128 px, each saved as JPEG (quality 35, 60, 90) and resized (0.5 to 1.7), the furthest
# copy is within 6 bits for 590; of 9 million pairs of different pictures four are 8 bits apart, none less.
NEAR_BITS = 6

FEW = 32  # hashes; up to this number, comparing with each is faster
BANDS = 4
BAND_BITS = BITS // BANDS
# Hashes that differ in NEAR_BITS bits or fewer differ in at most one bit within one of the bands: 7 = 4 * 2 - 1.
assert NEAR_BITS < 2 * BANDS

_WAVES = [
    [math.cos(math.pi * (2 * place + 1) * frequency / (2 * SIDE)) for place in range(SIDE)]
    for frequency in range(1, FREQUENCIES + 1)
]
_FLIPS = (0, *(1 << bit for bit in range(BAND_BITS)))


def phash(image: Image.Image) -> str:
    """Return sixteen hexadecimal digits. `image`: upright, RGB or grey."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = small.tobytes()
    rows = [pixels[start : start + SIDE] for start in range(0, SIDE * SIDE, SIDE)]
    columns = [[sum(map(mul, wave, row)) for row in rows] for wave in _WAVES]
    # Rounded: in a picture of one colour all are 0, and rounding errors must not set bits.
    strengths = [round(sum(map(mul, wave, column)), 3) for wave in _WAVES for column in columns]
    median = sorted(strengths)[BITS // 2]
    return f"{sum(1 << bit for bit, strength in enumerate(strengths) if strength > median):016x}"


def distance(one: int, other: int) -> int:
    """Return the number of bits in which two hashes differ."""
    return (one ^ other).bit_count()


class HashIndex:
    """Finds near hashes among many without comparing with each of them.

    Every hash is filed under its bands. A search visits its own bands and all that differ from them in one bit. By the
    pigeonhole principle nothing near is missed (bands as in Manku, Jain, Das Sarma, "Detecting near-duplicates for
    web crawling", 2007).
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._hashes: list[int] = []
        self._filed: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, digits: str) -> None:
        number, at = int(digits, 16), len(self._names)
        self._names.append(name)
        self._hashes.append(number)
        for filed, band in zip(self._filed, _bands(number), strict=True):
            filed.setdefault(band, []).append(at)

    def near(self, digits: str) -> Iterator[str]:
        """Yield the names of the near hashes, each once."""
        number, seen = int(digits, 16), set()
        if len(self._hashes) <= FEW:
            yield from (name for name, other in zip(self._names, self._hashes, strict=True) if _is_near(number, other))
            return
        for filed, band in zip(self._filed, _bands(number), strict=True):
            for flip in _FLIPS:
                for at in filed.get(band ^ flip, ()):
                    if at not in seen and _is_near(number, self._hashes[at]):
                        seen.add(at)
                        yield self._names[at]


def _is_near(one: int, other: int) -> bool:
    return (one ^ other).bit_count() <= NEAR_BITS


def _bands(number: int) -> list[int]:
    return [number >> BAND_BITS * band & (1 << BAND_BITS) - 1 for band in range(BANDS)]
