"""One scan that a listing is written to."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.scans import new_images, scans
from scanfleet.db.scans.forgotten import forgotten_of
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import RequestError
from scanfleet.producer.sources.listing import Listing


class Target:
    """Takes the pages of a listing in transactions of the caller, which first locks the scan.

    held: the scan as it was when it was locked last. full: it takes no further image.
    """

    def __init__(self, engine: sa.Engine, settings: Settings, scan: ScanInfo, listing: Listing) -> None:
        self.scan = self.held = scan
        self.n_new = self.n_forgotten = 0
        self._n_forgotten_of_page = 0
        self._batch_images = settings.batch_images
        self._listing = listing
        self._cursor = scan.cursor
        self._keeps_cursor = True
        with reading(engine) as connection:
            self._remaining = self._count_remaining(connection)

    @property
    def full(self) -> bool:
        return self._remaining == 0

    def refuse_cancelled(self) -> None:
        """Raise RequestError if the scan was cancelled."""
        if self.held.state == "cancelled":
            raise RequestError(f"scan {self.scan.id} of this source was cancelled: start a new one with --fresh")

    def lock(self, connection: sa.Connection) -> None:
        """Lock the scan's state until the commit."""
        connection.execute(sa.select(Scan.id).where(Scan.id == self.scan.id).with_for_update(key_share=True))
        self.held = scans.get_scan(connection, self.scan.id)

    def write(self, connection: sa.Connection, page: list[NewImage]) -> int:
        """Write images, batches and cursor. Returns how many images are new."""
        self._remaining = self._count_remaining(connection)
        self._n_forgotten_of_page = len(forgotten_of(connection, self.scan.id, page))
        added = new_images.add_images(
            connection,
            scan_id=self.scan.id,
            queue=self.scan.queue,
            images=page,
            batch_images=self._batch_images,
            at_most=self._remaining,
        )
        values = self._move_cursor(self._listing.cursor_at(page[-1])) | {"roots": self._listing.roots}
        if added:
            # While n_listed is NULL, no worker can end the scan before the next page.
            values |= {"n_listed": None}
            scans.reopen(connection, self.scan.id)
        if values:
            connection.execute(sa.update(Scan).where(Scan.id == self.scan.id).values(values))
        return _count_images(connection, added)

    def count(self, n_new: int) -> None:
        """The images of the last page are committed."""
        self.n_new += n_new
        self.n_forgotten += self._n_forgotten_of_page
        self._remaining = None if self._remaining is None else self._remaining - n_new

    def end(self, connection: sa.Connection) -> None:
        """Mark the listing as complete; only now can the scan become done."""
        n_listed = scans.progress(connection, self.scan.id).n_images
        values = {"n_listed": n_listed, "cursor": None}
        connection.execute(sa.update(Scan).where(Scan.id == self.scan.id).values(values))
        scans.finish_if_complete(connection, self.scan.id)

    def _move_cursor(self, cursor: dict[str, Any] | None) -> dict[str, Any]:
        """Return the column to write; none, for good, once the ledger's cursor is not the one of the last page.

        Then the database was restored and has lost pages before this one, or another command lists the same scan.
        """
        same = (self._cursor, cursor)  # cursor: a repeated commit
        self._keeps_cursor = self._keeps_cursor and self.held.cursor in same
        self._cursor = cursor
        return {"cursor": cursor} if self._keeps_cursor else {}

    def _count_remaining(self, connection: sa.Connection) -> int | None:
        """Return how many images the scan may still take; None for no limit."""
        limit = self._listing.filters.limit
        return None if limit is None else max(limit - scans.progress(connection, self.scan.id).n_images, 0)


def _count_images(connection: sa.Connection, batch_ids: list[int]) -> int:
    total = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_images), 0)).where(Batch.id.in_(batch_ids))
    return int(connection.execute(total).scalar_one())
