"""What a decoder child says, and where it puts pixels. The other end is scanfleet.decoding.answers."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from scanfleet.decoding import region
from scanfleet.decoding.protocol import (
    COUNT,
    FRAME,
    LENGTH,
    MAX_DETAIL_CHARS,
    NONE,
    pack_seconds,
    pack_text,
    strips,
)
from scanfleet.images import Decoded
from scanfleet.images.fit import Fit


def fitted(decoded: Decoded, fit: Fit | None) -> tuple[Decoded, Image.Image]:
    """Return a picture and what is sent of it: at the size that is wanted, where there is one."""
    image = decoded.image
    size = None if fit is None else fit.size(image.size)
    if fit is None or size is None or size == image.size:
        return decoded, image
    return decoded, image.resize(size, Image.Resampling(fit.resample))


def refusal(reason: str, detail: str) -> bytes:
    """Return the answer for a file that is not decoded."""
    return COUNT.pack(0) + pack_text(reason) + pack_text(detail[:MAX_DETAIL_CHARS])


def frame(decoded: Decoded, image: Image.Image, at: int) -> bytes:
    """Return the part of an answer that tells of one frame. at: the place of its pixels."""
    number, seconds = (NONE, None) if decoded.frame is None else decoded.frame
    sizes = (decoded.width, decoded.height, *decoded.image.size, *image.size)
    about = (decoded.orientation, len(decoded.notes), decoded.n_frames, number, pack_seconds(seconds))
    place = (at, _n_bytes(image))
    return FRAME.pack(*sizes, *about, decoded.format.encode("ascii"), *place) + b"".join(map(pack_text, decoded.notes))


def _n_bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())


def send(sink: BinaryIO, image: Image.Image) -> None:
    """Send the pixels through the pipe."""
    for top, bottom in strips(*image.size):
        _write(sink, image.crop((0, top, image.width, bottom)).tobytes())


def say(sink: BinaryIO, message: bytes) -> None:
    _write(sink, LENGTH.pack(len(message)) + message)


def _write(sink: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]


class Shared:
    """The memory for pixels of one turn. descriptor: NONE: there is none."""

    def __init__(self, descriptor: int) -> None:
        self._memory = None if descriptor == NONE else region.attach(descriptor)
        self._used = 0

    def forget(self) -> None:
        """The worker has taken what lies here."""
        self._used = 0

    def put(self, image: Image.Image) -> int:
        """Write the pixels and return their place, or NONE where there is no room."""
        at, end = self._used, self._used + _n_bytes(image)
        if self._memory is None or end > len(self._memory):
            return NONE
        self._memory[at:end] = image.tobytes()
        self._used = end
        return at
