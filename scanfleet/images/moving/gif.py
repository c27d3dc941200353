"""GIF: its frames, found block by block without unpacking them."""

from __future__ import annotations

import struct

from scanfleet.images.moving.animation import Animation, Part, Parts
from scanfleet.images.types import failure

EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B
CONTROL, APPLICATION = 0xF9, 0xFF
LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
SCREEN = struct.Struct("<HHBBB")
DESCRIPTOR = struct.Struct("<HHHHB")
HEAD = 6 + SCREEN.size
AFTER = {2: "clear", 3: "restore"}
HAS_TABLE = 0x80


class _Walk:
    """Raises IndexError and struct.error where the file ends within a block."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts = Parts()
        self.loops = False
        self.ended = False  # by the trailer
        self.begun = False  # a block that the file does not hold as a whole
        self._control = (0, 0, b"")
        width, height, flags, _, _ = SCREEN.unpack_from(data, 6)
        self.size = (width, height)
        at = self.first = HEAD + _table(flags)
        try:
            while not self.ended:
                at = self._block(at)
        except (IndexError, struct.error):
            self.begun = at < len(data)
        self.waits = self.loops or self.begun or bool(self._control[2]) or any(part.seconds for part in self.parts.kept)

    def _block(self, at: int) -> int:
        """Read the block that begins here; return where the next one does."""
        data, kind = self.data, self.data[at]
        if kind == TRAILER:
            self.ended = True
        elif kind == IMAGE:
            return self._image(at)
        elif kind == EXTENSION:
            if data[at + 1] == CONTROL and data[at + 2] == 4:
                flags, delay = data[at + 3], int.from_bytes(data[at + 4 : at + 6], "little")
                self._control = (flags >> 2 & 7, delay, data[at : at + 8])
            self.loops |= data[at + 1] == APPLICATION and data[at + 3 : at + 14] in LOOPS
            return self._skip(at + 2)
        elif kind != 0:  # some writers pad with zeros
            raise IndexError
        return at + 1

    def _image(self, at: int) -> int:
        left, top, width, height, flags = DESCRIPTOR.unpack_from(self.data, at + 1)
        end = self._skip(at + 1 + DESCRIPTOR.size + _table(flags) + 1)
        after, delay, head = self._control
        box = (left, top, left + width, top + height)
        kept = AFTER.get(after, "keep")
        if not self.parts.n:
            self.size = (max(self.size[0], box[2]), max(self.size[1], box[3]))  # browsers enlarge the canvas for it
        self.parts.add(Part(box, delay / 100, True, kept, [(at, end)], head))  # type: ignore[arg-type]
        self._control = (0, 0, b"")
        return end

    def _skip(self, at: int) -> int:
        """Return where the blocks of data that begin here end."""
        data = self.data
        while length := data[at]:
            at += 1 + length
        return at + 1


def animation(data: bytes, max_pixels: int) -> Animation | None:
    """The frames of the file; None where it holds one picture. Raises ImageError."""
    walk = _Walk(data)
    if not walk.ended and walk.parts.n and (walk.parts.n > 1 or walk.waits):
        raise failure("truncated", f"the animation has no end after frame {walk.parts.n}")
    if walk.parts.n <= 1:
        return None

    def file_of(part: Part) -> bytes:
        (start, end), (left, top, right, bottom) = part.spans[0], part.box
        screen = data[:6] + struct.pack("<HH", right - left, bottom - top) + data[10 : walk.first]
        descriptor = struct.pack("<BHHHH", IMAGE, 0, 0, right - left, bottom - top)
        return b"".join((screen, part.head, descriptor, data[start + 9 : end], bytes((TRAILER,))))

    return Animation(size=walk.size, parts=walk.parts, format="GIF", file_of=file_of, max_pixels=max_pixels)


def _table(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << 1 + (flags & 7) if flags & HAS_TABLE else 0
