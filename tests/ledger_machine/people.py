"""The producer, which lists pages of images, and people, who pause, resume, cancel and retry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from scanfleet.db.scans import crash_isolation, new_images, retries, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Image, Scan
from scanfleet.errors import RequestError
from tests.ledger_machine.ground import Ground
from tests.ledger_machine.ledger import QUEUE


class People(Ground):
    def list_page(self, scan: int, n_images: int, *, batch_images: int, poison: Sequence[int] = ()) -> None:
        """List a page of new images. poison: those that kill their worker."""
        scan_id = self.scan_ids[scan]
        start = len(self._listed[scan_id])
        uris = [f"mem://{scan}/{self._n_restored}-{number}" for number in range(start, start + n_images)]
        if self._write_page(scan_id, [NewImage(uri=uri, etag="1") for uri in uris], batch_images):
            self._listed[scan_id] += uris
            ids = sorted(image.id for batch in self.model.of_scan(scan_id) for image in batch.images)[start:]
            self.poison |= {ids[at] for at in poison if at < len(ids)}

    def list_again(self, scan: int) -> None:
        """List a page that the scan holds already: nothing may change."""
        scan_id = self.scan_ids[scan]
        page = [NewImage(uri=uri, etag="1") for uri in self._listed[scan_id]]
        n_batches = len(self.model.batches)
        self._write_page(scan_id, page, 2)
        self._expect(len(self.model.batches) == n_batches, "listing again added a batch")

    def rescan(self, n_images: int, *, batch_images: int) -> None:
        """Add images to the third scan, which renews answers of the first."""
        root, renewing = self.scan_ids[0], self.scan_ids[2]
        held = {image.rescan_of for image in self.seen.images.values()}
        answered = [image for image in self.seen.images.values() if image.scan_id == root and image.state == "verdict"]
        page = [
            NewImage(uri=image.uri, etag="1", rescan_of=image.id, drawn="all")
            for image in answered
            if image.id not in held
        ]
        self._write_page(renewing, page[:n_images], batch_images)

    def _write_page(self, scan_id: str, page: list[NewImage], batch_images: int) -> bool:
        """List as producer.scans.enqueue does. False: the scan is cancelled."""

        def write(connection: sa.Connection) -> dict[int, list[tuple[int, str]]] | None:
            connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update())
            if scans.get_scan(connection, scan_id).state == "cancelled":
                return None
            added = new_images.add_images(
                connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=batch_images
            )
            if added:
                scans.reopen(connection, scan_id)
                connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(n_listed=None))
            rows = connection.execute(sa.select(Image.id, Image.uri, Image.batch_id).where(Image.batch_id.in_(added)))
            members: dict[int, list[tuple[int, str]]] = {batch_id: [] for batch_id in added}
            for row in rows.all():
                members[row.batch_id].append((row.id, row.uri))
            return members

        members, _ = self._do(write)
        cancelled = self.model.scans[scan_id].state == "cancelled"
        self._expect((members is None) == cancelled, "listing into a cancelled scan")
        if members is not None:
            self.model.listed(scan_id, members)
        return members is not None

    def end_listing(self, scan: int) -> None:
        scan_id = self.scan_ids[scan]

        def end(connection: sa.Connection) -> None:
            connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update())
            values = {"n_listed": scans.progress(connection, scan_id).n_images}
            connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(values))
            scans.finish_if_complete(connection, scan_id)

        if self.seen.scans[scan_id].state != "cancelled":
            self._do(end)
            self.model.listing_ended(scan_id)

    def pause_or_resume(self, scan: int) -> None:
        held = self.model.scans[self.scan_ids[scan]]
        pausing = self.seen.scans[held.id].state == "running"
        if self._request(lambda connection: (scans.pause if pausing else scans.resume)(connection, held.id)):
            self._expect(held.state in ("running", "paused"), f"a {held.state} scan was changed")
            held.state = "paused" if pausing else "running"
        else:
            self._expect(held.state in ("done", "cancelled"), f"a {held.state} scan was refused")

    def cancel(self, scan: int) -> None:
        held = self.model.scans[self.scan_ids[scan]]
        if self._request(lambda connection: scans.cancel(connection, held.id)):
            self._expect(held.state in ("running", "paused"), f"a {held.state} scan was cancelled")
            self.model.cancelled(held.id)
        else:
            self._expect(held.state in ("done", "cancelled"), f"a {held.state} scan was refused")

    def _request(self, call: Callable[[sa.Connection], object]) -> bool:
        try:
            self._do(call)
        except RequestError:
            return False
        return True

    def retry(self, scan: int, *, only_killers: bool) -> None:
        scan_id = self.scan_ids[scan]
        reason = crash_isolation.KILLER if only_killers else None
        n_retried: list[int] = []
        if not self._request(lambda c: n_retried.append(retries.retry_failures(c, scan_id, reason=reason))):
            self._expect(self.model.scans[scan_id].state == "cancelled", "a retry was refused")
            return
        again = {row.image_id for row in self.seen.failures if reason in (None, row.reason)}
        for image_id in again:
            if self.seen.images[image_id].scan_id == scan_id:
                self._in_hand_at_end[image_id] = 0
        n_expected = self.model.retried(scan_id, lambda failure: reason in (None, failure[1]))
        self._expect(n_retried == [n_expected], f"{n_retried} images retried, {n_expected} had failed")
