"""Frames of a video, by OpenCV's FFmpeg.

They are sought at evenly spaced times, so that a long film costs no more than a short one.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from scanfleet.images.optional import containers, extras
from scanfleet.images.stills.still import Asked, Shown, require_size
from scanfleet.images.types import failure

MOST_LOOKED_AT = 24  # frames: each may cost decoding all from the key frame before it
STEPS = 50  # frames ahead are reached by decoding those between, not by seeking
MAX_SCORED = 64  # frames: the most that a check may ask for (scanfleet.checks.frames)
EXACT = ("MP4", "MOV")  # count their frames; Matroska has a duration alone
LAST_SHARE, LAST_SECONDS = 0.1, 1.0  # by which the number of frames from a duration may be too large
# Only these demultiplexers, and no protocol: a file must not make FFmpeg open another one or an address.
OPTIONS = "protocol_whitelist;none|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
# What FFmpeg writes of damaged data, before it fills in what is missing.
DAMAGED = re.compile(
    r"error while decoding|concealing|corrupt|damaged|truncat|partial file|Invalid NAL|Invalid data|missing picture"
    r"|overread|out of range|Error at MB|illegal|bitstream|Failed to decode|Not all references|Invalid",
    re.IGNORECASE,
)
# AV1 has no decoder in it, and interlaced pictures of some formats cannot be converted.
UNABLE = re.compile(r"hardware accelerated|Cannot convert interlaced|Failed to get pixel format", re.IGNORECASE)
QUICKTIME, WEBM = b"qt  ", b"webm"

# What it writes after a seek into the middle of a stream, of frames before it that nobody asked for.
AFTER_SEEK = re.compile(
    r"mmco|co located|reorder|short term|reference frames|Missing reference|find ref", re.IGNORECASE
)


class Video:
    """A video in memory."""

    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, data: bytes, asked: Asked) -> None:
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", OPTIONS)
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        self._cv2 = extras.load("cv2")
        self._cv2.setNumThreads(1)
        self._data, self._asked = data, asked
        self.format = _format(data)
        containers.require_whole(data)
        self._capture = self._open()
        self._at = 0  # the frame that comes next
        self._sequential = False  # seeking goes by the header, where that is wrong frames are reached one by one
        if containers.n_pictures(data) > 1:
            raise failure("unsupported", "several video tracks")
        self.fps = self._number("CAP_PROP_FPS") or 25.0
        size = int(self._number("CAP_PROP_FRAME_WIDTH")), int(self._number("CAP_PROP_FRAME_HEIGHT"))
        self.n_pixels = size[0] * size[1]
        require_size(size, asked.max_pixels)
        complaints = [""]
        try:
            with _complaints() as complaints, self._errors():
                self.n_frames = self._count()
        finally:
            _require_none(complaints[0], "the last frame")

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        for number in numbers:
            with _complaints() as complaints, self._errors():
                frame = self._frame(number)
            _require_none(complaints[0], f"frame {number} of {self.n_frames}")
            if frame is None:
                raise failure("truncated", f"frame {number} of {self.n_frames} cannot be decoded")
            image, seconds = frame
            yield Shown(image, image.size, self.format, seconds=seconds)

    def _open(self) -> Any:
        with _complaints() as complaints, self._errors():
            capture = self._cv2.VideoCapture(
                io.BytesIO(self._data), self._cv2.CAP_FFMPEG, [self._cv2.CAP_PROP_N_THREADS, 1]
            )
        if not capture.isOpened():
            raise failure("corrupt", f"no video that can be decoded: {complaints[0][-200:]}")
        return capture

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises ImageError or MemoryError for an error of OpenCV."""
        try:
            yield
        except self._cv2.error as error:
            if error.code == self._cv2.Error.StsNoMem:
                raise MemoryError from None
            raise failure("corrupt", str(error).strip()) from None

    def _number(self, name: str) -> float:
        value = float(self._capture.get(getattr(self._cv2, name)))
        return value if math.isfinite(value) and value > 0 else 0.0

    def _count(self) -> int:
        """Return the number of frames. Raises ImageError where the last ones do not come.

        The number in a header may be wrong, either way. That is of no account where no check scores as many frames, as
        long as the last one comes; else they are counted by decoding them.
        """
        n = int(min(self._number("CAP_PROP_FRAME_COUNT"), 1e9))
        if n > MAX_SCORED:
            if self._frame(n - 1) is not None:
                return n
            least = self._least(n)
            if self._frame(least - 1) is not None:
                return self._last_between(least, n)
            if self.format in EXACT:
                raise failure("truncated", f"the last of {n} frames cannot be decoded")
        self._reopen()
        counted = 0
        while self._capture.grab():
            counted += 1
        self._reopen()
        if not counted or (counted < self._least(n) and self.format in EXACT):
            raise failure("truncated", f"{counted} of {n} frames can be decoded")
        self._sequential = counted != n or counted == 1
        return counted

    def _least(self, n: int) -> int:
        """Return how many frames come at least of a sound file whose header counts n."""
        cut = math.ceil(self.fps * containers.seconds_cut(self._data))  # counted, and never shown
        slack = 0 if self.format in EXACT else math.ceil(min(LAST_SECONDS * self.fps, LAST_SHARE * n))
        return max(1, n - cut - slack)

    def _last_between(self, there: int, missing: int) -> int:
        """Return how many frames come, of which `there` do and `missing` do not."""
        while missing - there > 1:
            middle = (there + missing) // 2
            there, missing = (there, middle) if self._frame(middle - 1) is None else (middle, missing)
        return there

    def _reopen(self) -> None:
        self._capture, self._at = self._open(), 0  # OpenCV may crash where the old one is released by hand

    def _frame(self, number: int) -> tuple[Image.Image, float] | None:
        if self._sequential:
            if number < self._at:
                self._reopen()
        elif not self._at <= number <= self._at + STEPS:
            self._capture.set(self._cv2.CAP_PROP_POS_FRAMES, number)
            self._at = number
        while self._at < number:
            self._capture.grab()
            self._at += 1
        there, pixels = self._capture.read()
        self._at += 1
        if not there:
            return None
        seconds = max(0.0, float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000)
        return Image.fromarray(self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB)), round(seconds, 3)


def open_file(data: bytes, asked: Asked) -> Video:
    """Raises ImageError."""
    return Video(data, asked)


def _format(data: bytes) -> str:
    if data.startswith(containers.MATROSKA):
        return "WEBM" if WEBM in data[:64] else "MATROSKA"
    return "MOV" if data[8:12] == QUICKTIME or data[4:8] != b"ftyp" else "MP4"


def _require_none(complaints: str, where: str) -> None:
    """Raises ImageError for lines that tell of damage, or of a codec that this FFmpeg lacks."""
    if UNABLE.search(complaints):
        raise failure("unsupported", f"{where}: FFmpeg as OpenCV brings it cannot decode this kind of video")
    damage = (line for line in complaints.splitlines() if DAMAGED.search(line) and not AFTER_SEEK.search(line))
    if (line := next(damage, None)) is not None:
        raise failure("truncated", f"{where}: {line[:200]}")


def _scratch() -> IO[bytes]:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("said"), "r+b")
    else:
        return tempfile.TemporaryFile()


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what libraries write to stderr meanwhile: the text is the one entry of the list at the end."""
    said = [""]
    kept = os.dup(2)
    with _scratch() as to:
        os.dup2(to.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            to.seek(0)
            said[0] = to.read().decode("utf-8", "replace").strip()
