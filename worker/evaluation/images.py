"""Labelled images on the local disk: fetched, checked against their hash, and decoded once in a process of its own.

A file lies in the folder, under its SHA-256, only when its bytes are the labelled ones and their decoding did no harm:
so a training that goes on after a kill fetches what is missing, and reads what is there without asking again.
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

from models.training.data.types import Example
from models.types import Box, Question
from scanfleet.config.settings import Settings
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import BadSource, ImageError
from scanfleet.images.decoding import decode
from scanfleet.storage.open import OpenStores, StoreFinder

if TYPE_CHECKING:
    from PIL import Image

Watch = Callable[[int, int], None]  # (images done, images in all); raises to stop


class Known(Protocol):
    """Bytes that are known by their hash, and where they lie."""

    @property
    def content_sha256(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def root(self) -> str | None: ...


class Standing(Known, Protocol):
    """What a training needs of a standing label."""

    @property
    def label(self) -> str: ...
    @property
    def boxes(self) -> list[Any] | None: ...
    @property
    def cluster(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A `Standing` as the work folder keeps it."""

    content_sha256: str
    uri: str
    root: str | None
    label: str
    boxes: list[Any] | None
    cluster: str


@dataclass(frozen=True, kw_only=True)
class OpenChecked:
    """Opens a file that `bring` has put down, upright and RGB. Its bytes were decoded before, in a child."""

    max_pixels: int

    def __call__(self, path: Path) -> Image.Image:
        return decode(path.read_bytes(), max_pixels=self.max_pixels).image


def materialise(
    settings: Settings,
    standing: Sequence[Standing],
    folder: Path,
    question: Question,
    *,
    watch: Watch | None = None,
    stores: StoreFinder | None = None,
) -> tuple[list[Example], dict[str, int]]:
    """The labelled images as files below `folder`, in the order given; and how many were left out, by reason.

    Left out: gone, changed, not an image any more ... and labels that the question does not know (unknown_label).
    Raises Retryable when a store is away or no decoder starts; what was fetched until then is kept.
    """
    known = [each for each in standing if each.label in question.labels]
    faults = bring(settings, known, folder, watch=watch, stores=stores)
    left_out = Counter(fault for fault in faults if fault is not None)
    left_out["unknown_label"] = len(standing) - len(known)
    there = [each for each, fault in zip(known, faults, strict=True) if fault is None]
    examples = [example_of(each, folder, question, settings) for each in there]
    return examples, {reason: n for reason, n in sorted(left_out.items()) if n}


def example_of(each: Standing, folder: Path, question: Question, settings: Settings) -> Example:
    """An example whose file was brought."""
    return Example(
        key=each.content_sha256,
        path=folder / each.content_sha256,
        label=question.labels.index(each.label),
        cluster=each.cluster,
        boxes=tuple(_boxes(each.boxes)),
        open=OpenChecked(max_pixels=settings.max_image_pixels),
    )


def bring(
    settings: Settings,
    images: Sequence[Known],
    folder: Path,
    *,
    watch: Watch | None = None,
    stores: StoreFinder | None = None,
) -> list[str | None]:
    """Files below `folder`, named by their hash. For each image, why it is left out, in one stable word; None: it is
    there. Raises Retryable."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Decoders(settings)) as decoders:
        fetch = _Fetch(settings, folder, decoders, stores or OpenStores(settings))
        return _each(fetch, images, threads=settings.fetch_threads, watch=watch)


@dataclass(frozen=True)
class _Fetch:
    settings: Settings
    folder: Path
    decoders: Decoders
    stores: StoreFinder

    def __call__(self, each: Known) -> str | None:
        """Why it is left out. Raises Retryable."""
        target = self.folder / each.content_sha256
        if target.exists():
            return None
        try:
            # Not pinned to an etag: the hash says more, and a file that was only touched is the same image.
            store = self.stores(each.uri, each.root)
            data = store.fetch(each.uri, etag=None, max_bytes=self.settings.max_image_bytes)
            if hashlib.sha256(data).hexdigest() != each.content_sha256:
                return "changed"
            self.decoders.decode(data)
        except ImageError as error:
            return error.reason
        except BadSource:
            return "no_such_store"
        part = target.with_name(f"{target.name}.part")
        part.write_bytes(data)
        part.replace(target)
        return None


def _each(
    fetch: Callable[[Known], str | None], images: Sequence[Known], *, threads: int, watch: Watch | None
) -> list[str | None]:
    """In order. The first failure of the world ends it; the others in hand are waited for, not begun."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="label-image")
    under_way: list[Future[str | None]] = [pool.submit(fetch, each) for each in images]
    found = []
    try:
        for done, future in enumerate(under_way, start=1):
            found.append(future.result())
            if watch is not None:
                watch(done, len(images))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return found


def _boxes(stored: Iterable[dict[str, object]] | None) -> Iterable[Box]:
    for box in stored or ():
        sides = {side: float(str(box[side])) for side in ("x0", "y0", "x1", "y1")}
        yield Box(**sides, label=str(box["label"]))
