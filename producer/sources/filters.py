"""Filters and samples a listing, and cuts it into pages to write. Pure: no store, no database."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import RequestError
from scanfleet.images import SUFFIXES
from scanfleet.producer.sources.base import Candidate

GROWTH_LIMIT = 16  # batches in one page
PAGE_LIMIT = 8192  # images in one page: each is a bound parameter, and SQLite takes 32,766


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The choice of images from a listing.

    include, exclude: globs on the path below the source; `*` also matches `/`, and a glob without `/` is also matched
    against the name alone. Files of an excluded folder are only counted. `include` replaces the rule that only files
    with an image suffix count.
    limit: the most images in the scan.
    members: whether archives count as folders of their members.
    sample: below 1 a fraction, from 1 on a number of images; the same `seed` chooses the same images.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    sample: float | None = None
    seed: int = 0
    members: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the values that distinguish one scan from another, without filters that are not set."""
        values = {"include": list(self.include), "exclude": list(self.exclude)}
        chosen = {"limit": self.limit, "sample": self.sample, "seed": self.seed if self.sample is not None else None}
        chosen["members"] = self.members
        return {name: value for name, value in (values | chosen).items() if value}

    def takes(self, path: str, *, sift_by_suffix: bool) -> bool:
        if any(excludes(glob, path) for glob in self.exclude):
            return False
        if self.include:
            return _matches(path, self.include)
        return not sift_by_suffix or path.lower().endswith(SUFFIXES)

    def skips_folder(self, path: str) -> bool:
        """Return True if everything in a folder is excluded, so that its files are only counted."""
        return any(_covers(glob, path) for glob in self.exclude)

    def below(self, top: str) -> Filters:
        """Return these filters for one source: absolute globs below `top` become relative to it, anchored by `./`."""
        include, exclude = (
            tuple(f"./{glob.removeprefix(top)}" if top and glob.startswith(top) else glob for glob in globs)
            for globs in (self.include, self.exclude)
        )
        return replace(self, include=include, exclude=exclude)

    @property
    def sample_size(self) -> int | None:
        """The size of a sample by number; None for a fraction or no sample."""
        return int(self.sample) if self.sample is not None and self.sample >= 1 else None


def _matches(path: str, globs: Iterable[str]) -> bool:
    """A glob without a slash matches a name at any depth; `./name` (as shells complete it) only at the top."""
    name = PurePosixPath(path).name
    for glob in globs:
        plain = glob.removeprefix("./").rstrip("/")
        if fnmatchcase(path, plain) or ("/" not in glob.rstrip("/") and fnmatchcase(name, plain)):
            return True
    return False


def _covers(glob: str, folder: str) -> bool:
    return _matches(folder, (glob,)) or (glob.endswith("*") and fnmatchcase(f"{folder}/", glob.removeprefix("./")))


def excludes(glob: str, path: str) -> bool:
    """Return True if a glob of `exclude` matches a file, or a folder above it."""
    return _matches(path, (glob,)) or any(_covers(glob, folder) for folder in _folders_of(path))


def _folders_of(path: str) -> list[str]:
    """`a/b/c.jpg` -> ["a", "a/b"]."""
    return [path[:end] for end, letter in enumerate(path) if letter == "/"]


def parse_sample(text: str) -> float:
    """Parse a number of images, or a fraction such as `0.05`. Raises RequestError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value < 1 or (value >= 1 and value.is_integer())):
        raise RequestError(f"--sample {text}: give a number of images, or a fraction between 0 and 1")
    return value


def sample_key(seed: int, uri: str) -> int:
    """Return a number below 2**64 that depends only on seed and uri, not on listing order or machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{uri}".encode(), digest_size=8).digest(), "big")


def take_sample(candidates: Iterable[Candidate], filters: Filters) -> Iterator[Candidate]:
    """Yield the sample. A fraction streams; a number reads the whole listing and holds only the sample in memory."""
    size = filters.sample_size
    if filters.sample is None:
        yield from candidates
    elif size is None:
        below = int(filters.sample * 2**64)
        yield from (item for item in candidates if sample_key(filters.seed, item.image.uri) < below)
    else:
        yield from _smallest(candidates, size, filters.seed)


def _smallest(candidates: Iterable[Candidate], size: int, seed: int) -> Iterator[Candidate]:
    """Yield the `size` images with the smallest keys, each once (a manifest may name an image twice)."""
    heap: list[tuple[int, str, int, Candidate]] = []  # keys are negated, so that the largest is first
    held: set[str] = set()
    for number, item in enumerate(candidates):
        identity = item.image.identity
        if identity in held:
            continue
        entry = (-sample_key(seed, item.image.uri), identity, number, item)
        if len(heap) < size:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            held.discard(heapq.heappushpop(heap, entry)[1])
        else:
            continue
        held.add(identity)
    for *_, item in sorted(heap, key=lambda entry: entry[2]):
        yield item


def page_sizes(batch_images: int) -> Iterator[int]:
    """Yield sizes without end: first one batch, so that work starts at once, then larger ones."""
    longest = max(batch_images, min(GROWTH_LIMIT * batch_images, PAGE_LIMIT))
    size = batch_images
    while True:
        yield size
        size = min(2 * size, longest)


def pages(images: Iterable[NewImage], *, batch_images: int) -> Iterator[list[NewImage]]:
    """Yield pages to write in one transaction each."""
    sizes = page_sizes(batch_images)
    page: list[NewImage] = []
    size = next(sizes)
    for image in images:
        page.append(image)
        if len(page) == size:
            yield page
            page, size = [], next(sizes)
    if page:
        yield page
