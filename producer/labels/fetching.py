"""Images are fetched and decoded before a label of them is kept: a label belongs to bytes, not to a name.

The files are untrusted, so the child processes that workers use decode them here as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scanfleet.config.settings import Settings
from scanfleet.db.labels.clusters import SeenImage
from scanfleet.db.scans.batches import NewImage
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import ImageError
from scanfleet.images import Enough
from scanfleet.perceptual_hash import SIDE, phash
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.open import open_store

WINDOW = 4  # images under way, for each thread
ENOUGH = Enough(pixels=(8 * SIDE) ** 2, short_side=4 * SIDE)  # for its look


@dataclass(kw_only=True)
class Fetched:
    """By uri: the images, and the failures of those that could not be read."""

    seen: dict[str, SeenImage] = field(default_factory=dict)
    unread: dict[str, ImageError] = field(default_factory=dict)


def fetch_images(
    images: Sequence[NewImage],
    settings: Settings,
    *,
    frame_of: Callable[[str], int | None] = lambda _: None,
    done: Callable[[int], None] = lambda _: None,
) -> Fetched:
    """Fetch each of them once. `done` is called with the number of images finished since the last call.

    frame_of: returns the picture that a file is labelled by, from its SHA-256; called for files that hold several.

    Raises Retryable when a service is unavailable; then nothing can be said of the labels.
    """
    images = list({image.uri: image for image in images}.values())
    found = Fetched()
    with Decoders(settings) as decoders, ThreadPoolExecutor(settings.fetch_threads) as pool:
        stores = _Stores(settings, decoders, frame_of)
        for start in range(0, len(images), window := WINDOW * settings.fetch_threads):
            some = images[start : start + window]
            for image, outcome in zip(some, pool.map(stores.look_at, some), strict=True):
                if isinstance(outcome, ImageError):
                    found.unread[image.uri] = outcome
                else:
                    found.seen[image.uri] = outcome
            done(len(some))
    return found


class _Stores:
    """One store a folder, one for all buckets."""

    def __init__(self, settings: Settings, decoders: Decoders, frame_of: Callable[[str], int | None]) -> None:
        self._frame_of = frame_of
        self._settings = settings
        self._decoders = decoders
        self._open: dict[str | None, ObjectStore] = {}

    def look_at(self, image: NewImage) -> SeenImage | ImageError:
        """Raises Retryable."""
        try:
            data = self._store(image).fetch(image.uri, etag=image.etag, max_bytes=self._settings.max_image_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            decoded = self._decoders.decode(data, enough=ENOUGH)
            frame = self._frame_of(sha256) if decoded.n_frames > 1 else None
            if frame is not None:
                decoded = self._decoders.decode(data, enough=ENOUGH, frame=frame)
        except ImageError as error:
            return error
        return SeenImage(
            content_sha256=sha256,
            uri=image.uri,
            root=image.root,
            etag=image.etag,
            width=decoded.width,
            height=decoded.height,
            phash=phash(decoded.image),
            several=decoded.n_frames > 1 and frame is None,
        )

    def _store(self, image: NewImage) -> ObjectStore:
        if image.root not in self._open:
            self._open[image.root] = open_store(image.uri, self._settings, root=image.root)
        return self._open[image.root]
