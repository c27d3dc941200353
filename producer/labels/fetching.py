"""Images are fetched and decoded before a label of them is kept: a label belongs to bytes, not to a name.

The files are untrusted, so the child processes that workers use decode them here as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
    """By uri: the images, the failures of those that could not be read, and EXIF orientations that turn an image."""

    seen: dict[str, SeenImage] = field(default_factory=dict)
    unread: dict[str, ImageError] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)


def fetch_images(
    images: Sequence[NewImage],
    settings: Settings,
    *,
    frame_of: Callable[[str], int | None] = lambda _: None,
    done: Callable[[int], None] = lambda _: None,
    spares: Mapping[str, NewImage] | None = None,
) -> Fetched:
    """Fetch each of them once. `done` is called with the number of images finished since the last call.

    frame_of: returns the picture that a file is labelled by, from its SHA-256; called for files that hold several.
    spares: by uri, the image to fetch if there is none of that name.

    Raises Retryable when a service is unavailable; then nothing can be said of the labels.
    """
    images = list({image.uri: image for image in images}.values())
    found = Fetched()
    with Decoders(settings) as decoders, ThreadPoolExecutor(settings.fetch_threads) as pool:
        stores = _Stores(settings, decoders, frame_of, spares or {})
        for start in range(0, len(images), window := WINDOW * settings.fetch_threads):
            some = images[start : start + window]
            for image, outcome in zip(some, pool.map(stores.look_at, some), strict=True):
                if isinstance(outcome, ImageError):
                    found.unread[image.uri] = outcome
                else:
                    found.seen[image.uri], found.orientations[image.uri] = outcome
            done(len(some))
    return found


class _Stores:
    """One store a folder, one for all buckets."""

    def __init__(
        self,
        settings: Settings,
        decoders: Decoders,
        frame_of: Callable[[str], int | None],
        spares: Mapping[str, NewImage],
    ) -> None:
        self._frame_of = frame_of
        self._settings = settings
        self._spares = spares
        self._decoders = decoders
        self._open: dict[str | None, ObjectStore] = {}

    def look_at(self, image: NewImage) -> tuple[SeenImage, int] | ImageError:
        """Return an image and its EXIF orientation. Raises Retryable."""
        found = self._look_at(image)
        if isinstance(found, ImageError) and found.reason == "gone" and image.uri in self._spares:
            spare = self._look_at(self._spares[image.uri])
            return found if isinstance(spare, ImageError) and spare.reason == "gone" else spare
        return found

    def _look_at(self, image: NewImage) -> tuple[SeenImage, int] | ImageError:
        try:
            most = self._settings.max_image_bytes
            data = self._store(image).fetch(image.uri, etag=image.etag, max_bytes=most).data
            sha256 = hashlib.sha256(data).hexdigest()
            decoded = self._decoders.decode(data, enough=ENOUGH)
            frame = self._frame_of(sha256) if decoded.n_frames > 1 else None
            if frame is not None:
                decoded = self._decoders.decode(data, enough=ENOUGH, frame=frame)
        except ImageError as error:
            return error
        seen = SeenImage(
            content_sha256=sha256,
            uri=image.uri,
            root=image.root,
            etag=image.etag,
            width=decoded.width,
            height=decoded.height,
            phash=phash(decoded.image),
            several=decoded.n_frames > 1 and frame is None,
        )
        return seen, decoded.orientation

    def _store(self, image: NewImage) -> ObjectStore:
        if image.root not in self._open:
            self._open[image.root] = open_store(image.uri, self._settings, root=image.root)
        return self._open[image.root]
