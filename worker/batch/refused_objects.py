"""Tells a store that refuses single objects, or has lost them, from a store that is unavailable.

A missing object is believed unless the store contradicts itself when it is asked in another way. A refused one, or one
about which the store contradicts itself, waits. From the second attempt on it becomes a failure if the store delivers
another object of the scan meanwhile, and then refuses this one again. So a refusal of everything stays a wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import reading
from scanfleet.db.scans import batches
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import DatabaseUnavailable, StoreUnavailable
from scanfleet.storage.base import any_delivered
from scanfleet.storage.s3.uri import is_s3, split_s3
from scanfleet.worker.batch.attempt import Aborted
from scanfleet.worker.batch.context import RETRY_SECONDS, WorkerContext
from scanfleet.worker.batch.leases import Lease
from scanfleet.worker.batch.results import BatchResults

T = TypeVar("T")
OnAbort = Callable[[Callable[[str], None]], None]  # registers what to call when the batch is to be given up
N_ASKED = 8  # missing objects of a batch that the store is asked about in another way
FIRST_JUDGED = 2  # attempt: a store that is being set up may refuse for some seconds

log = structlog.get_logger()


class RefusedObjects:
    def __init__(self, engine: sa.Engine, context: WorkerContext) -> None:
        self._engine = engine
        self._context = context

    def settle(
        self,
        lease: Lease,
        results: BatchResults,
        *,
        run: Callable[[Sequence[ClaimedImage]], None],
        on_abort: OnAbort,
    ) -> None:
        """Make failures of the images whose objects alone are refused or missing; the others wait.

        run: tries images once more, into `results`. Raises Aborted, and what `run` raises.
        """
        if results.missing:
            doubt = self._ask(on_abort, partial(self._contradiction, lease, results.missing))
            if doubt is None:
                results.confirm_missing()
            else:
                log.warning("missing_objects_doubted", batch=lease.claim.batch_id, why=str(doubt))
                results.doubt_missing(doubt)
        alone = (
            self._ask(on_abort, partial(self._alone, lease.claim.scan_id, results.refused)) if results.refused else []
        )
        if not alone:
            return
        results.note_store_answers()  # else a few batches of refused objects alone would put the scan on hold
        if lease.claim.attempts >= FIRST_JUDGED:
            run(results.take_refused(alone))
            results.accept_refusals({image.id for image in alone})

    def _ask(self, on_abort: OnAbort, question: Callable[[], T]) -> T:
        """Ask in a stage thread: a store may take long, and an abort must not wait for it. Raises Aborted."""
        inbox: SimpleQueue[str | None] = SimpleQueue()
        on_abort(inbox.put)
        settings = self._context.settings
        ended = self._context.tracker.whole.expect(seconds=N_ASKED * (settings.fetch_deadline_seconds + RETRY_SECONDS))
        try:
            asked = self._context.threads.submit(question)
            asked.add_done_callback(lambda _: inbox.put(None))
            if (reason := inbox.get()) is not None:
                raise Aborted(reason)
            return asked.result()
        finally:
            ended()

    def _contradiction(self, lease: Lease, missing: Sequence[ClaimedImage]) -> StoreUnavailable | None:
        """Return how the store contradicts itself about some of these images; None if it does not."""
        for image in missing[:: max(1, len(missing) // N_ASKED)][:N_ASKED]:
            root_id = None if image.root is None else lease.claim.roots.get(image.root)
            try:
                self._context.stores(image.uri, image.root).confirm_missing(image.uri, etag=image.pin, root_id=root_id)
            except StoreUnavailable as error:
                return error
        return None

    def _alone(self, scan_id: str, refused: Sequence[ClaimedImage]) -> list[ClaimedImage]:
        """Return the images whose bucket or folder delivers others now.

        Of a bucket that never delivered anything, another bucket will do: the credentials are the same. So will another
        host, and another folder, of a file that was not there when it was listed.
        """
        try:
            with reading(self._engine) as connection:
                answered = batches.delivered_lately(connection, scan_id)
        except DatabaseUnavailable:
            return []
        delivering = {}
        for place in {_place(image) for image in refused}:
            near = [image for image in answered if _place(image) == place]
            others = [image for image in answered if _kind(_place(image)) == _kind(place)]
            delivering[place] = bool(near), self._any_delivered(near or others)
        return [image for image in refused if _counts(image, *delivering[_place(image)])]

    def _any_delivered(self, images: Sequence[ClaimedImage]) -> bool:
        stores = self._context.stores
        return any_delivered((stores(image.uri, image.root), image.uri, image.pin) for image in images)


def _counts(image: ClaimedImage, is_near: bool, is_delivered: bool) -> bool:
    return is_delivered and (is_near or image.root is None or image.etag is None)


def _place(image: ClaimedImage) -> str:
    """Return the bucket of an object, the host of an address, or the folder that a file must not leave."""
    if image.root is not None:
        return image.root
    return f"s3://{split_s3(image.uri)[0]}" if is_s3(image.uri) else "/".join(image.uri.split("/")[:3])


def _kind(place: str) -> str:
    return place.partition("://")[0] if "://" in place else "folder"
