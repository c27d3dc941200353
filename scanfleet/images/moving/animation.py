"""Animations whose frames are parts of a canvas: GIF, APNG, WebP.

Each part is decoded as a file of its own, with all the checks of a still picture, and laid on the canvas as browsers
do.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from PIL import Image

from scanfleet.images.frames import MOST_LOOKED_AT, shown_seconds
from scanfleet.images.samples import Notes
from scanfleet.images.stills.still import Asked, Shown, read, require_size
from scanfleet.images.types import failure

CLEAR = (0, 0, 0, 0)


class Part(NamedTuple):
    """One frame as it is stored."""

    box: tuple[int, int, int, int]  # on the canvas
    seconds: float  # for which it is shown, as stored
    over: bool  # laid over what is there, else in its place
    after: Literal["keep", "clear", "restore"]  # what becomes of its box when its time is over
    spans: list[tuple[int, int]]  # of its data in the file
    head: bytes = b""  # what its format needs beside them


@dataclass
class Parts:
    """The frames of a file: the first ones in full, the others counted."""

    kept: list[Part] = field(default_factory=list)
    n: int = 0

    def add(self, part: Part) -> None:
        self.n += 1
        if len(self.kept) < MOST_LOOKED_AT:
            self.kept.append(part)


@dataclass(frozen=True, kw_only=True)
class Animation:
    """The frames of a file, to be reached one after the other."""

    size: tuple[int, int]
    parts: Parts
    format: str
    file_of: Callable[[Part], bytes]  # a file with this part alone
    max_pixels: int
    turn: Image.Transpose | None = None
    notes: Notes = ()

    sequential = True
    most_looked_at = MOST_LOOKED_AT

    @property
    def n_frames(self) -> int:
        return self.parts.n

    @property
    def n_pixels(self) -> int:
        """Pixels of the canvas, or of the largest part: a part is unpacked even where it lies off the canvas."""
        boxes = (part.box for part in self.parts.kept)
        return max(self.size[0] * self.size[1], *((box[2] - box[0]) * (box[3] - box[1]) for box in boxes))

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        """Yield these frames, which are in order. An image is good until the next one is asked for."""
        require_size(self.size, self.max_pixels)
        wanted, last = frozenset(numbers), max(numbers)
        canvas = Image.new("RGBA", self.size, CLEAR)
        seconds = 0.0
        for number, part in enumerate(self.parts.kept[: last + 1]):
            left, top, right, bottom = part.box
            layer = self._layer(part)
            before = canvas.crop(part.box) if part.after == "restore" else None
            if layer is None:
                pass
            elif part.over:
                canvas.alpha_composite(layer, (left, top))
            else:
                canvas.paste(layer, (left, top))
            if number in wanted:
                yield Shown(canvas, self.size, self.format, self.turn, self.notes, round(seconds, 3))
            if part.after == "clear":
                canvas.paste(CLEAR, part.box)
            elif before is not None:
                canvas.paste(before, (left, top, right, bottom))
            seconds += shown_seconds(part.seconds)

    def _layer(self, part: Part) -> Image.Image | None:
        """The pixels of a part that lie on the canvas, if any. Raises ImageError."""
        left, top, right, bottom = part.box
        width, height = right - left, bottom - top
        data = self.file_of(part)
        with Image.open(io.BytesIO(data), formats=(self.format,)) as opened:
            if (opened.width, opened.height) != (width, height):
                raise failure("corrupt", f"a frame is {opened.width} x {opened.height}, not {width} x {height}")
            layer = read(opened, data, Asked(self.max_pixels, None, stretch=False)).image.convert("RGBA")
        inside = min(width, self.size[0] - left), min(height, self.size[1] - top)
        if inside == (width, height):
            return layer
        return layer.crop((0, 0, *inside)) if min(inside) > 0 else None
