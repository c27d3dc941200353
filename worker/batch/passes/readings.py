"""What a worker has read for other scans of a pass, until it has written it for them.

It lives while the worker goes through the batches that hold the same images. A worker that dies loses nothing else:
the other scans' batches are ready, and any worker reads their images again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.models.types import Reading
from scanfleet.worker.scoring.factory import Resolved


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """A file that was fetched and decoded, with one picture in it. etag: of the version; None: the store has none."""

    sha256: str
    etag: str | None
    size: int  # bytes
    width: int  # pixels, upright
    height: int
    notes: tuple[str, ...]


class PassReadings:
    """Readings by scorer and bytes, and the batches that wait for them."""

    def __init__(self) -> None:
        self._batches: deque[int] | None = None
        self._files: dict[str, FileRead] = {}  # by identity
        self._readings: dict[tuple[Resolved, str], Reading] = {}  # by SHA-256

    def follow(self, batches: Iterable[int]) -> None:
        """Go on to these batches. Later calls add none, so that the readings stay those of one batch's images."""
        if self._batches is None:
            self._batches = deque(sorted(batches))

    def awaits(self, batches: Iterable[int]) -> bool:
        """Return whether readings for one of these batches will be used."""
        return self._batches is None or not set(batches).isdisjoint(self._batches)

    def take_batches(self) -> Iterator[int]:
        """Yield the batches to go on to."""
        while self._batches:
            yield self._batches.popleft()

    @property
    def any(self) -> bool:
        """Whether there is a reading for any of them."""
        return bool(self._readings)

    def add(self, image: ClaimedImage, file: FileRead, readings: Iterable[tuple[Resolved, Reading]]) -> None:
        self._files[image.identity] = file
        for resolved, reading in readings:
            self._readings[resolved, file.sha256] = reading

    def find(self, resolved: Resolved, image: ClaimedImage) -> tuple[FileRead, Reading] | None:
        """Return what this very scorer has to say about an image of another scan; None: it is still to be read."""
        file = self._files.get(image.identity)
        if file is None or (image.etag is None and image.pin not in (None, file.etag)):  # another version was pinned
            return None
        reading = self._readings.get((resolved, file.sha256))
        return None if reading is None else (file, reading)
