"""Forgets images: what is chosen, what else holds them, and taking them away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from scanfleet.db.deletion import labels, selection
from scanfleet.db.deletion.labels import LabelCount, Learnt
from scanfleet.db.deletion.removal import PAGE_IMAGES, Removed
from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.rescans import root_of
from scanfleet.db.scans import forgotten, scans
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.producer.deletion.pages import remove_page
from scanfleet.retry import retry_database


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What there is of the chosen images. named_by: scans whose sources, as given, name them."""

    images: tuple[tuple[ScanInfo, int], ...]  # by scan, without those of rescans
    labels: tuple[LabelCount, ...]
    trainings: tuple[int, ...]  # under way, with such labels
    adapters: tuple[Learnt, ...]
    named_by: tuple[tuple[str, str], ...]  # scan, source

    @property
    def n_images(self) -> int:
        return sum(n for _, n in self.images)


def roots_of(engine: sa.Engine, names: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of scans; for a rescan that of the scan it renews. Raises UnknownName."""
    with reading(engine) as connection:
        return tuple(dict.fromkeys(root_of(connection, name).id for name in names))


def holdings(engine: sa.Engine, chosen: Selection) -> Holdings:
    """Count. Reads each image once, and blocks nobody."""
    with reading(engine, long=True) as connection:
        counts = selection.count_by_scan(connection, chosen)
        found = [(scans.get_scan(connection, scan_id), n) for scan_id, n in counts.items()]
        labelled = labels.count_labels(connection, chosen)
        return Holdings(
            images=tuple(found),
            labels=tuple(labelled),
            trainings=tuple(labels.trainings_under_way(connection, labelled)),
            adapters=tuple(labels.learnt_from(connection, labelled)),
            named_by=tuple((scan.id, source) for scan, _ in found for source in scan.sources if _names(chosen, source)),
        )


def _names(chosen: Selection, source: str) -> bool:
    return source in chosen.uris or (chosen.prefix is not None and source.startswith(chosen.prefix))


def forget(engine: sa.Engine, chosen: Selection, *, with_labels: bool) -> Iterator[Removed]:
    """Take away the chosen images, and remember their names; yields after each page.

    Listings go on meanwhile. What one was writing is found the second time: then the names are known to all of them.
    """
    if chosen.for_good and chosen.uris:
        names = [(uri, forgotten.EVERY) for uri in chosen.uris]
        retry_database(lambda: _remember(engine, names))
    for _ in range(2):
        yield from _pages(engine, chosen, until=retry_database(lambda: _settled(engine)), with_labels=with_labels)
    while with_labels and chosen.by_name and retry_database(lambda: _label_page(engine, chosen)):
        yield Removed()


def _remember(engine: sa.Engine, names: Sequence[tuple[str, str]]) -> None:
    with transaction(engine) as connection:
        forgotten.remember(connection, names)


def _settled(engine: sa.Engine) -> int:
    """Wait for the listings that write at this moment. Returns the newest image."""
    with transaction(engine) as connection:
        selection.wait_for_listings(connection)
    with reading(engine) as connection:
        return selection.newest_image(connection)


def _pages(engine: sa.Engine, chosen: Selection, *, until: int, with_labels: bool) -> Iterator[Removed]:
    after = 0

    def read() -> Sequence[sa.Row[tuple[int, str, str]]]:
        with reading(engine, long=True) as connection:
            return selection.page_of(connection, chosen, after=after, until=until, limit=PAGE_IMAGES)

    while page := retry_database(read):
        names = [(row.uri, chosen.remembered_for(row.scan_id)) for row in page]
        uris = {row.uri for row in page} if chosen.for_good else set()
        also = partial(_besides, names=names, uris=uris if with_labels else None)
        yield remove_page(engine, [row.id for row in page], also=also)
        after = page[-1].id


def _besides(
    connection: sa.Connection, removed: Removed, *, names: Sequence[tuple[str, str]], uris: set[str] | None
) -> None:
    """uris: names whose labels go with them; None: all labels stay."""
    forgotten.remember(connection, names)
    if uris is not None:
        labels.remove_labels(connection, removed.contents, uris)


def _label_page(engine: sa.Engine, chosen: Selection) -> bool:
    """Take away labels of images by their own names. Returns whether there were any."""
    with transaction(engine) as connection:
        contents = labels.named_page(connection, chosen, limit=PAGE_IMAGES)
        labels.remove_labels_of(connection, contents)
        return bool(contents)
