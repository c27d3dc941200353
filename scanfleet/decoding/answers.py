"""Answers of a decoder child. They are checked: a child is as untrusted as the image that it decodes.

Every number of an answer is checked before memory is given out for it; a large picture gets it strip by strip.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from PIL import Image

from scanfleet.decoding.protocol import (
    CHANNELS,
    COUNT,
    FRAME,
    LENGTH,
    MAX_ANSWER_BYTES,
    MAX_DETAIL_CHARS,
    MAX_NOTE_CHARS,
    MAX_NOTES,
    NONE,
    READY,
    Wanted,
    strips,
)
from scanfleet.errors import ImageError
from scanfleet.images import Decoded, Fitted, Frame
from scanfleet.images.types import failure

_FORMAT = re.compile("[A-Za-z0-9]{1,16}")
_REASON = re.compile("[a-z_]{1,40}")

Answer = list[Decoded | Fitted] | ImageError  # of one file


class Nonsense(Exception):
    """An invalid answer."""


class _Header(NamedTuple):
    """FRAME, before it is checked, and the notes."""

    width: int
    height: int
    decoded_width: int
    decoded_height: int
    sent_width: int
    sent_height: int
    orientation: int
    n_notes: int
    n_frames: int
    frame: int
    seconds: float
    format: str
    at: int
    length: int
    notes: tuple[str, ...]


class Pipes:
    """To and from one child. region: what both share. max_pixels: more in an answer is nonsense."""

    def __init__(self, to: IO[bytes], back: IO[bytes], region: mmap.mmap | None, *, max_pixels: int) -> None:
        self._to = to
        self._from = back
        self._region = region
        self._max_pixels = max_pixels

    def close(self) -> None:
        for file in (self._to, self._from):
            with contextlib.suppress(OSError):
                file.close()
        if self._region is not None:
            self._region.close()

    def wait_ready(self) -> None:
        """Raises EOFError, OSError, Nonsense."""
        if self._message(len(READY)) != READY:
            raise Nonsense("its first message is not the one that it is ready")

    def ask(self, files: Sequence[bytes], wanted: Wanted) -> None:
        """Raises OSError."""
        parts = [memoryview(part) for part in (wanted.pack(files), *files) if part]
        while parts:
            n = os.writev(self._to.fileno(), parts) if sys.platform != "win32" else self._to.write(parts[0])
            while parts and n >= len(parts[0]):
                n -= len(parts.pop(0))
            if n:
                parts[0] = parts[0][n:]

    def answers(self, n_files: int, wanted: Wanted) -> list[Answer]:
        """Read the answers for the first files of a turn. Raises EOFError, OSError, Nonsense."""
        body = _Body(self._message(n_files * wanted.most_frames * MAX_ANSWER_BYTES))
        answers: list[Answer] = []
        in_pipe = False
        while body.rest and len(answers) < n_files and not in_pipe:
            n_frames = body.number()
            if n_frames > wanted.most_frames:
                raise Nonsense(f"{n_frames} frames of {wanted.most_frames}")
            if not n_frames:
                answers.append(body.refusal())
                continue
            headers = [body.frame() for _ in range(n_frames)]
            self._check_all(headers, wanted)
            in_pipe = any(header.at == NONE for header in headers)
            answers.append([self._frame(header, wanted) for header in headers])
        if body.rest or not answers:
            raise Nonsense(f"{len(answers)} answers, and {body.rest} bytes behind them")
        return answers

    def _message(self, most: int) -> bytes:
        (length,) = LENGTH.unpack(self._read(bytearray(LENGTH.size)))
        if length > most:
            raise Nonsense(f"a message of {length} bytes")
        return bytes(self._read(bytearray(length)))

    def _check_all(self, headers: Sequence[_Header], wanted: Wanted) -> None:
        for header in headers:
            self._check(header, wanted)
        if sum(header.width * header.height for header in headers) > self._max_pixels:
            raise Nonsense(f"{len(headers)} frames of more pixels than the limit")

    def _check(self, header: _Header, wanted: Wanted) -> None:
        decoded = (header.decoded_width, header.decoded_height)
        sent = (header.sent_width, header.sent_height)
        if min(*decoded, *sent, header.n_frames) < 1 or not 1 <= header.orientation <= 8 or header.frame < NONE:
            raise Nonsense(f"{header}")
        if decoded[0] > header.width or decoded[1] > header.height:
            raise Nonsense(f"{decoded} pixels of {header.width} x {header.height}")
        if sent != decoded and (wanted.fit is None or sent != wanted.fit.size(decoded)):
            raise Nonsense(f"{decoded} pixels, resized to {sent}")
        if not _FORMAT.fullmatch(header.format):
            raise Nonsense(f"the format {header.format!r}")
        if header.length != CHANNELS * sent[0] * sent[1]:
            raise Nonsense(f"{header.length} bytes for {sent} pixels")
        room = 0 if self._region is None else len(self._region)
        if header.at != NONE and not 0 <= header.at <= room - header.length:
            raise Nonsense(f"{header.length} bytes at {header.at} of {room}")

    def _frame(self, header: _Header, wanted: Wanted) -> Decoded | Fitted:
        told: dict[str, Any] = {
            "width": header.width,
            "height": header.height,
            "format": header.format,
            "notes": header.notes,
            "frame": None if header.frame == NONE else Frame(header.frame, _seconds(header.seconds)),
            "n_frames": header.n_frames,
            "orientation": header.orientation,
        }
        decoded, sent = (header.decoded_width, header.decoded_height), (header.sent_width, header.sent_height)
        if wanted.fit is not None and sent == wanted.fit.size(decoded):
            return Fitted(rgb=self._packed(header.at, sent), size=sent, decoded_size=decoded, **told)
        return Decoded(image=self._image(header.at, sent), **told)

    def _packed(self, at: int, size: tuple[int, int]) -> bytearray:
        n_bytes = CHANNELS * size[0] * size[1]
        if at == NONE:
            return self._read(bytearray(n_bytes))
        with memoryview(self._region) as pixels:  # type: ignore[arg-type]
            return bytearray(pixels[at : at + n_bytes])

    def _image(self, at: int, size: tuple[int, int]) -> Image.Image:
        width, height = size
        if at != NONE:
            return Image.frombytes("RGB", size, self._packed(at, size))
        image = Image.new("RGB", size, None)
        buffer = bytearray()
        for top, bottom in strips(width, height):
            n_bytes = (bottom - top) * width * CHANNELS
            if len(buffer) != n_bytes:  # the first strip, and the last
                buffer = bytearray(n_bytes)
            self._read(buffer)
            image.paste(Image.frombytes("RGB", (width, bottom - top), buffer), (0, top))
        return image

    def _read(self, into: bytearray) -> bytearray:
        rest = memoryview(into)
        while rest:
            n = self._from.readinto(rest)  # type: ignore[attr-defined]
            if not n:
                raise EOFError
            rest = rest[n:]
        return into


class _Body:
    """The parts of a message. Raises Nonsense at its end, and for what is no text."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def rest(self) -> int:
        """Bytes that are left."""
        return len(self._data) - self._at

    def number(self) -> int:
        (number,) = self._unpack(COUNT)
        return int(number)

    def refusal(self) -> ImageError:
        reason, detail = self._text(40), self._text(MAX_DETAIL_CHARS)
        if not _REASON.fullmatch(reason):
            raise Nonsense(f"the reason {reason!r}")
        return failure(reason, detail)

    def frame(self) -> _Header:
        *numbers, name, at, length = self._unpack(FRAME)
        header = _Header._make((*numbers, name.rstrip(b"\0").decode("ascii", "replace"), at, length, ()))
        if header.n_notes > MAX_NOTES:
            raise Nonsense(f"{header.n_notes} notes")
        return header._replace(notes=tuple(self._text(MAX_NOTE_CHARS) for _ in range(header.n_notes)))

    def _unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        if self.rest < layout.size:
            raise Nonsense("a message that ends early")
        found = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return found

    def _text(self, most: int) -> str:
        n_bytes = self.number()
        if self.rest < n_bytes:
            raise Nonsense("a message that ends early")
        self._at += n_bytes
        try:
            text = self._data[self._at - n_bytes : self._at].decode()
        except UnicodeDecodeError as error:
            raise Nonsense(str(error)) from None
        if len(text) > most:
            raise Nonsense(f"a text of {len(text)} characters")
        return text


def _seconds(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
