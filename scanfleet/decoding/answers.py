"""Answers of a decoder child. They are checked: a child is as untrusted as the image that it decodes.

Every header is checked, and the memory is given out strip by strip.
"""

from __future__ import annotations

import contextlib
from typing import IO, Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from scanfleet.decoding.protocol import (
    CHANNELS,
    LENGTH,
    MAX_DETAIL_CHARS,
    MAX_HEADER_BYTES,
    MAX_NOTE_CHARS,
    MAX_NOTES,
    strips,
)
from scanfleet.images import Decoded, Frame


class Nonsense(Exception):
    """An invalid answer."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Ready(_Strict):
    ready: Literal[True]


class Pixels(_Strict):
    width: int = Field(ge=1)  # of the file's picture
    height: int = Field(ge=1)
    sent_width: int = Field(ge=1)  # of what follows: less where less was enough
    sent_height: int = Field(ge=1)
    format: str = Field(pattern="^[A-Za-z0-9]{1,16}$")
    notes: tuple[Annotated[str, Field(max_length=MAX_NOTE_CHARS)], ...] = Field(max_length=MAX_NOTES)
    length: int
    frame: tuple[Annotated[int, Field(ge=0)], float | None] | None = None  # number, seconds
    n_frames: int = Field(default=1, ge=1)  # of the file
    more: int = Field(default=0, ge=0)  # frames that follow
    orientation: int = Field(default=1, ge=1, le=8)  # by EXIF


class Refusal(_Strict):
    stage: Literal["decode"]
    reason: str = Field(pattern="^[a-z_]{1,40}$")
    detail: str = Field(max_length=MAX_DETAIL_CHARS)


_HEADER: TypeAdapter[Ready | Pixels | Refusal] = TypeAdapter(Ready | Pixels | Refusal)


class Pipes:
    """To and from one child. max_pixels: more in an answer is nonsense."""

    def __init__(self, to: IO[bytes], back: IO[bytes], *, max_pixels: int) -> None:
        self._to = to
        self._from = back
        self._max_pixels = max_pixels

    def close(self) -> None:
        for file in (self._to, self._from):
            with contextlib.suppress(OSError):
                file.close()

    def header(self) -> Ready | Pixels | Refusal:
        """Raises EOFError, OSError, Nonsense."""
        (length,) = LENGTH.unpack(self._read(bytearray(LENGTH.size)))
        if length > MAX_HEADER_BYTES:
            raise Nonsense(f"a header of {length} bytes")
        try:
            return _HEADER.validate_json(bytes(self._read(bytearray(length))))
        except ValidationError as error:
            raise Nonsense(str(error)) from None

    def pixels(self, header: Pixels) -> Decoded:
        """Read the pixels after this header. Raises EOFError, OSError, Nonsense."""
        width, height = header.sent_width, header.sent_height
        if header.width * header.height > self._max_pixels or width > header.width or height > header.height:
            raise Nonsense(f"{width} x {height} pixels of {header.width} x {header.height}")
        if header.length != width * height * CHANNELS:
            raise Nonsense(f"{header.length} bytes for {width} x {height} pixels")
        image = Image.new("RGB", (width, height), None)
        buffer = bytearray()
        for top, bottom in strips(width, height):
            size = (bottom - top) * width * CHANNELS
            if len(buffer) != size:  # the first strip, and the last
                buffer = bytearray(size)
            self._read(buffer)
            image.paste(Image.frombytes("RGB", (width, bottom - top), buffer), (0, top))
        return Decoded(
            image=image,
            width=header.width,
            height=header.height,
            format=header.format,
            notes=header.notes,
            frame=None if header.frame is None else Frame(*header.frame),
            n_frames=header.n_frames,
            orientation=header.orientation,
        )

    def frames(self, first: Pixels, most: int) -> list[Decoded]:
        """All frames of an answer that begins so. Raises EOFError, OSError, Nonsense."""
        header, decoded = first, [self.pixels(first)]
        while header.more:
            rest, following = header.more, self.header()
            if not isinstance(following, Pixels) or following.more != rest - 1 or len(decoded) == most:
                raise Nonsense(f"{rest} more frames, after {len(decoded)} of {most}")
            header = following
            decoded.append(self.pixels(header))
            if sum(frame.width * frame.height for frame in decoded) > self._max_pixels:
                raise Nonsense(f"{len(decoded)} frames of more pixels than the limit")
        return decoded

    def _read(self, into: bytearray) -> bytearray:
        rest = memoryview(into)
        while rest:
            n = self._from.readinto(rest)  # type: ignore[attr-defined]
            if not n:
                raise EOFError
            rest = rest[n:]
        return into

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._to.write(rest) :]
