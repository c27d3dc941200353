"""What a scan would do, without doing it: images, bytes, and how many have been scored before. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import sqlalchemy as sa

from producer.listing import Listing
from producer.planning import pages
from scanfleet.checks import Check
from scanfleet.store.batches import NewImage
from scanfleet.store.engine import reading
from scanfleet.store.results import known_identities

PAGE_IMAGES = 1024


@dataclass(kw_only=True)
class Preview:
    n_images: int = 0
    n_bytes: int = 0
    n_unsized: int = 0  # images whose source tells no size
    n_scored: int = 0  # this check and model have a verdict for this very version
    n_skipped: int = 0


def preview(engine: sa.Engine | None, listing: Listing, *, check: Check, model: str) -> Preview:
    """Read the whole listing. `engine` None: there is no database yet, so nothing has been scored."""
    found = Preview()
    images = islice(listing.images(), listing.filters.limit)
    for page in pages(images, batch_images=PAGE_IMAGES):
        found.n_images += len(page)
        found.n_bytes += sum(image.size or 0 for image in page)
        found.n_unsized += sum(image.size is None for image in page)
        found.n_scored += 0 if engine is None else _scored(engine, page, check=check, model=model)
    found.n_skipped = listing.counts.n_skipped
    return found


def _scored(engine: sa.Engine, page: list[NewImage], *, check: Check, model: str) -> int:
    identities = [image.identity for image in page]
    with reading(engine, long=True) as connection:
        known = known_identities(connection, check_hash=check.hash, model=model, identities=identities)
    return sum(identity in known for identity in identities)
