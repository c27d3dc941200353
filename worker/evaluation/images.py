"""Labelled images on the local disk: fetched, checked against their hash, and decoded once in a child process.

A file is in the folder, under its SHA-256, only if its bytes are the labelled ones and it was decoded safely. So a
training that resumes after a kill fetches only the missing files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scanfleet.config.settings import Settings
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import BadSource, ImageError, ObjectRefused
from scanfleet.images.decoding import decode
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Box, Question
from scanfleet.storage.base import any_delivered
from scanfleet.storage.open import OpenStores, StoreFinder

if TYPE_CHECKING:
    from PIL import Image


Watch = Callable[[int, int], None]  # (images done, images in all); raises to stop


class Located(Protocol):
    """Image bytes, named by their hash, and their location."""

    @property
    def content_sha256(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def root(self) -> str | None: ...
    @property
    def frame(self) -> int | None: ...  # of a file with several pictures; None: not known, or it holds one


class ImageLabel(Located, Protocol):
    """The current label of an image, as far as a training needs it."""

    @property
    def label_id(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def boxes(self) -> list[Any] | None: ...
    @property
    def cluster(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A `ImageLabel` as the work folder keeps it."""

    content_sha256: str
    uri: str
    root: str | None
    label: str
    boxes: list[Any] | None
    cluster: str
    label_id: int = 0  # 0: the label is in no ledger
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class OpenChecked:
    """Opens a file that `fetch_images` has stored, upright and RGB. Its bytes were decoded in a child before."""

    max_pixels: int
    frame: int | None = None  # of a file with several pictures

    def __call__(self, path: Path) -> Image.Image:
        return decode(path.read_bytes(), max_pixels=self.max_pixels, frame=self.frame or 0).image


def materialise(
    settings: Settings,
    labels: Sequence[ImageLabel],
    folder: Path,
    question: Question,
    *,
    watch: Watch | None = None,
    stores: StoreFinder | None = None,
) -> tuple[list[Example], dict[str, int]]:
    """Store the labelled images below `folder`. Returns examples in the given order, and reason -> number left out.

    Left out: gone, changed, not an image any more ... labels that the question does not have (unknown_label), and files
    with several pictures whose label is about none of them that is known (several_frames).
    Raises Retryable if a store is unavailable or no decoder starts; files that were fetched before stay.
    """
    usable = [each for each in labels if each.label in question.labels]
    failures = fetch_images(settings, usable, folder, watch=watch, stores=stores)
    left_out = Counter(reason for reason in failures if reason is not None)
    left_out["unknown_label"] = len(labels) - len(usable)
    fetched = [each for each, reason in zip(usable, failures, strict=True) if reason is None]
    examples = [example_of(each, folder, question, settings) for each in fetched]
    return examples, {reason: n for reason, n in sorted(left_out.items()) if n}


def example_of(each: ImageLabel, folder: Path, question: Question, settings: Settings) -> Example:
    """An example whose file `fetch_images` has stored."""
    return Example(
        key=each.content_sha256,
        path=folder / each.content_sha256,
        label=question.labels.index(each.label),
        cluster=each.cluster,
        boxes=tuple(_boxes(each.boxes)),
        open=OpenChecked(max_pixels=settings.max_image_pixels, frame=each.frame),
    )


def fetch_images(
    settings: Settings,
    images: Sequence[Located],
    folder: Path,
    *,
    watch: Watch | None = None,
    stores: StoreFinder | None = None,
) -> list[str | None]:
    """Fetch images as files below `folder`, named by their hash.

    Returns for each image the reason why it is left out, as one stable word, or None. An object that the store refuses
    is left out if the store delivers others. Raises Retryable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Decoders(settings)) as decoders:
        fetch = _Fetch(settings, folder, decoders, stores or OpenStores(settings))
        return _fetch_all(fetch, images, threads=settings.fetch_threads, watch=watch)


@dataclass(frozen=True)
class _Fetch:
    settings: Settings
    folder: Path
    decoders: Decoders
    stores: StoreFinder

    def __call__(self, each: Located) -> str | ObjectRefused | None:
        """Returns the reason why the image is left out, or None. Raises Retryable but for a refused object."""
        target = self.folder / each.content_sha256
        if target.exists():
            return None
        try:
            # Without an etag: the hash is stricter, and a file that was only touched is the same image.
            store = self.stores(each.uri, each.root)
            data = store.fetch(each.uri, etag=None, max_bytes=self.settings.max_image_bytes).data
            if hashlib.sha256(data).hexdigest() != each.content_sha256:
                return "changed"
            if self.decoders.decode(data, frame=each.frame or 0).n_frames > 1 and each.frame is None:
                return "several_frames"
        except ImageError as error:
            return error.reason
        except ObjectRefused as error:
            if error.failure.reason == "gone":  # its folder: perhaps not mounted here
                raise
            return error
        except BadSource:
            return "no_such_store"
        self._keep(target, data)
        return None

    @staticmethod
    def _keep(target: Path, data: bytes) -> None:
        part = target.with_name(f"{target.name}.part")
        part.write_bytes(data)
        part.replace(target)


def _fetch_all(fetch: _Fetch, images: Sequence[Located], *, threads: int, watch: Watch | None) -> list[str | None]:
    """Results in order. The first error cancels the images that have not begun."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="label-image")
    futures: list[Future[str | ObjectRefused | None]] = [pool.submit(fetch, each) for each in images]
    results: list[str | ObjectRefused | None] = []
    try:
        for done, future in enumerate(futures, start=1):
            results.append(future.result())
            if watch is not None:
                watch(done, len(images))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return _settled(fetch, images, results)


def _settled(
    fetch: _Fetch, images: Sequence[Located], results: Sequence[str | ObjectRefused | None]
) -> list[str | None]:
    """Leave out what the store refuses once more while it delivers others. Raises Retryable."""
    refused = [each for each in results if isinstance(each, ObjectRefused)]
    present = [image for image, each in zip(images, results, strict=True) if each is None]
    if refused and not any_delivered((fetch.stores(each.uri, each.root), each.uri, None) for each in present):
        raise refused[0]
    again = (
        fetch(image) if isinstance(each, ObjectRefused) else each for image, each in zip(images, results, strict=True)
    )
    return [each.failure.reason if isinstance(each, ObjectRefused) else each for each in again]


def _boxes(stored: Iterable[dict[str, object]] | None) -> Iterable[Box]:
    for box in stored or ():
        sides = {side: float(str(box[side])) for side in ("x0", "y0", "x1", "y1")}
        yield Box(**sides, label=str(box["label"]))
