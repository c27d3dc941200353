"""Pictures for the pages: fetched with the server's rights, decoded in the sandbox, drawn anew, kept on disk.

The browser never gets a byte of the original: what an untrusted host sent ends in the child process that decodes it.
"""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

from scanfleet.config.settings import Settings
from scanfleet.db.results.results import Result
from scanfleet.decoding.pool import Decoders
from scanfleet.producer.reports.sheet.pictures import Pictures

EDGES = (320, 1280)  # pixels of the longer edge: grid, single view
MAX_CACHE_BYTES = 1_000_000_000
QUALITY = 80


class Thumbnails:
    """A cache by content, frame and edge. Past its bound the pictures that were asked for longest ago go."""

    def __init__(self, settings: Settings, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._folder = settings.make_folder("thumbnails")
        self._lock = threading.Lock()
        self._pictures: Pictures | None = None
        self._n_bytes: int | None = None  # None: not counted yet

    def get(self, result: Result, edge: int) -> bytes:
        """Return a WebP of the judged picture. Raises ImageError (also fetch: changed), Retryable."""
        frame = 0 if result.frames is None else result.frames.frame
        file = self._folder / f"{result.content_sha256}-{frame}-{edge}.webp"
        try:
            data = file.read_bytes()
            os.utime(file)
        except FileNotFoundError:
            data = self._draw(result, edge)
            self._keep(file, data)
        return data

    def _draw(self, result: Result, edge: int) -> bytes:
        with self._lock:
            if self._pictures is None:
                self._pictures = Pictures(self._settings, Decoders(self._settings), n=1)
        image = self._pictures.judged(result).convert("RGB")
        image.thumbnail((edge, edge))
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=2)
        return out.getvalue()

    def _keep(self, file: Path, data: bytes) -> None:
        part = file.with_suffix(f".{threading.get_ident()}.{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(file)
        with self._lock:
            if self._n_bytes is not None:
                self._n_bytes += len(data)
            if self._n_bytes is None or self._n_bytes > self._max_bytes:
                self._n_bytes = _shrink(self._folder, self._max_bytes)


def _shrink(folder: Path, max_bytes: int) -> int:
    """Delete the oldest files of a folder that has outgrown its bound, to nine tenths; return the bytes that stay."""
    files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(folder))
    n_bytes = sum(size for _, size, _ in files)
    if n_bytes <= max_bytes:
        return n_bytes
    for _, size, path in files:
        if n_bytes <= 0.9 * max_bytes:
            break
        Path(path).unlink(missing_ok=True)  # another process may have been first
        n_bytes -= size
    return n_bytes
