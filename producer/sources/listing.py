"""Combines sources and filters to one lazy stream of images, and counts what is skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scanfleet.db.scans.new_images import NewImage
from scanfleet.producer.sources.base import Candidate, LeftOut, Source
from scanfleet.producer.sources.filters import Filters, excludes, take_sample
from scanfleet.storage.folder import root_id_of

MOST_SHOWN = 10  # of the entries that are left out


@dataclass(kw_only=True)
class Counts:
    """Counts that grow while the listing is read."""

    n_taken: int = 0
    n_skipped: int = 0  # files that the filters left out
    n_left_out: int = 0  # entries of manifests and archives that name no image
    left_out: list[LeftOut] = field(default_factory=list)  # the first of them
    idle: set[str] | None = None  # globs of `exclude` that matched nothing; None until the whole listing is read


class Listing:
    """The stream of a scan's images. `counts` belongs to the last image yielded."""

    def __init__(self, sources: Sequence[Source], filters: Filters) -> None:
        self.sources = sources
        self.filters = filters
        self.counts = Counts()

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    @property
    def roots(self) -> dict[str, str]:
        """The folders of the sources, with what tells them from an empty mount point."""
        ids = {source.root: root_id_of(source.root) for source in self.sources if source.root is not None}
        return {root: found for root, found in ids.items() if found is not None}

    def images(self, cursor: dict[str, Any] | None = None) -> Iterator[NewImage]:
        """Yield every image, or those after a cursor. Each call resets the counts."""
        self.counts = Counts()
        idle = set(self.filters.exclude)
        for item in take_sample(self._candidates(cursor or {}, idle), self.filters):
            self.counts.n_taken += 1
            yield item.image
        self.counts.idle = None if cursor else idle

    def cursor_at(self, image: NewImage) -> dict[str, Any] | None:
        """Return the cursor after `image`; None: start over, the ledger drops what it already holds."""
        if self.filters.sample_size is not None or len(self.sources) != 1 or not self.sources[0].resumable:
            return None
        return {"after": image.uri}

    def _candidates(self, cursor: dict[str, Any], idle: set[str]) -> Iterator[Candidate]:
        """Yield what the filters take; drop from `idle` the globs of `exclude` that match."""
        for source in self.sources:
            filters = self.filters.below(source.top)
            globs = dict(zip(self.filters.exclude, filters.exclude, strict=True))
            for item in source.candidates(after=cursor.get("after"), skip=filters.skips_folder):
                if isinstance(item, LeftOut):
                    self._leave_out(item)
                elif filters.takes(item.path, sift_by_suffix=source.sifts_by_suffix):
                    yield item
                else:
                    idle -= {glob for glob in idle if excludes(globs[glob], item.path)}
                    self.counts.n_skipped += 1

    def _leave_out(self, item: LeftOut) -> None:
        self.counts.n_left_out += 1
        if len(self.counts.left_out) < MOST_SHOWN:
            self.counts.left_out.append(item)
