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
from scanfleet.db.scans.new_images import NewImage
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import ImageError, ObjectRefused
from scanfleet.images import Enough
from scanfleet.perceptual_hash import SIDE, phash
from scanfleet.storage.base import ObjectStore, Witness, any_delivered
from scanfleet.storage.open import open_store

WINDOW = 4  # images under way, for each thread
ENOUGH = Enough(pixels=(8 * SIDE) ** 2, short_side=4 * SIDE)  # for its look


@dataclass(kw_only=True)
class Fetched:
    """By uri: the images, the failures of those that could not be read, and EXIF orientations that turn an image."""

    seen: dict[str, SeenImage] = field(default_factory=dict)
    unread: dict[str, ImageError] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)

    def add(self, image: NewImage, outcome: tuple[SeenImage, int] | ImageError) -> None:
        if isinstance(outcome, ImageError):
            self.unread[image.uri] = outcome
        else:
            self.seen[image.uri], self.orientations[image.uri] = outcome


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

    An object that the store refuses is unread if the store delivers others.

    Raises Retryable when a service is unavailable; then nothing can be said of the labels.
    """
    images = list({image.uri: image for image in images}.values())
    found = Fetched()
    refused: list[NewImage] = []
    with Decoders(settings) as decoders, ThreadPoolExecutor(settings.fetch_threads) as pool:
        stores = _Stores(settings, decoders, frame_of, spares or {})
        for start in range(0, len(images), window := WINDOW * settings.fetch_threads):
            some = images[start : start + window]
            for image, outcome in zip(some, pool.map(stores.look_at, some), strict=True):
                if isinstance(outcome, ObjectRefused):
                    refused.append(image)
                else:
                    found.add(image, outcome)
            done(len(some))
        _settle(refused, found, stores)
    return found


def _settle(refused: Sequence[NewImage], found: Fetched, stores: _Stores) -> None:
    """List as unread what the store refuses once more while it delivers others. Raises ObjectRefused."""
    delivers = bool(refused) and any_delivered(map(stores.witness, found.seen.values()))
    for image in refused:
        outcome = stores.look_at(image)
        if isinstance(outcome, ObjectRefused) and not delivers:
            raise outcome
        found.add(image, outcome.failure if isinstance(outcome, ObjectRefused) else outcome)


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

    def witness(self, seen: SeenImage) -> Witness:
        return self._store(NewImage(uri=seen.uri, root=seen.root)), seen.uri, seen.etag

    def look_at(self, image: NewImage) -> tuple[SeenImage, int] | ImageError | ObjectRefused:
        """Return an image and its EXIF orientation. Raises Retryable."""
        found = self._look_at(image)
        if isinstance(found, ImageError) and found.reason == "gone" and image.uri in self._spares:
            spare = self._look_at(self._spares[image.uri])
            return found if isinstance(spare, ImageError) and spare.reason == "gone" else spare
        return found

    def _look_at(self, image: NewImage) -> tuple[SeenImage, int] | ImageError | ObjectRefused:
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
        except ObjectRefused as error:
            if error.failure.reason == "gone":  # its folder: perhaps not mounted here
                raise
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
