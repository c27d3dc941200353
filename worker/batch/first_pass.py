"""The work of first looks that stage threads do: fetch, decode and prepare an image; and have boxes found in it.

Whatever comes of it is told to the coordinator of the batch (`worker.batch.attempt`), errors as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from models.types import Finder, FoundBoxes, Prepared, Reading
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.images import Enough
from worker.batch.context import BatchContext
from worker.batch.events import Answered, Fetched, Located, NotFetched, Twins
from worker.decoding.file_buffer import KeptFiles
from worker.device.queue import WorkResult


class FirstPass:
    """kept: files that a second look may need once more; None: there is no second look."""

    def __init__(self, batch: BatchContext, kept: KeptFiles | None) -> None:
        self._batch = batch
        self._kept = kept
        detail = batch.resolved.scorer.detail
        self._enough = None if detail is None else Enough(detail.pixels, detail.short_side)

    def fetch(self, image: ClaimedImage) -> None:
        """Tells the bytes."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.expect_fetch()
        try:
            with self._batch.watch.measure("fetch"):
                store = self._batch.worker.stores(image.uri, image.root)
                data = store.fetch(image.uri, etag=image.etag, max_bytes=self._batch.worker.settings.max_image_bytes)
                sha256 = hashlib.sha256(data).hexdigest()
            self._batch.send(Fetched(image=image, data=data, sha256=sha256))
        except Exception as error:  # noqa: BLE001 - judged by its kind where it is gathered
            self._batch.send(NotFetched(image=image, error=error))
        finally:
            ended()

    def prepare(self, twins: Twins, box: list[bytes]) -> None:
        """The device tells what it reads.

        box: the file, taken out: the executor keeps what it was given until the end, and the end may be long off.
        """
        n_bytes = len(box[0])
        if self._batch.closed.is_set():
            self._batch.worker.files.drop(n_bytes)
            return
        ended = self._batch.activity.expect(
            seconds=0
        )  # seconds by rule, and a decoder that hangs is ended by its keeper
        try:
            try:
                data = box.pop()
                with self._batch.watch.measure("decode"):
                    decoded = self._batch.worker.decoders.decode(data, enough=self._enough)
                if self._kept is not None:
                    self._kept.keep(twins.sha256, data)
                del data
            finally:
                self._batch.worker.files.drop(n_bytes)
            width, height = decoded.width, decoded.height
            with self._batch.watch.measure("prepare"):
                prepared = self._batch.resolved.scorer.prepare(decoded.image)
            del decoded  # its pixels need not wait for the device
            if self._batch.resolved.boxes is not None or self._kept is not None:
                twins.prepared = prepared
            answer = self._answering(twins, width, height)
            self._batch.worker.device.submit(
                owner=self._batch, scorer=self._batch.resolved.scorer, prepared=prepared, answer=answer
            )
        except Exception as error:  # noqa: BLE001 - judged by its kind where it is gathered
            self._batch.send(Answered(twins=twins, result=error))
        finally:
            ended()

    def _answering(self, twins: Twins, width: int, height: int) -> Callable[[WorkResult], None]:
        def answer(given: WorkResult) -> None:
            self._batch.watch.answered(given)
            assert isinstance(given.result, Reading | Exception)
            self._batch.send(Answered(twins=twins, result=given.result, width=width, height=height))

        return answer

    def locate(self, scored: Answered, finder: Finder, prepared: Prepared) -> None:
        """The device tells where."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.activity.expect(seconds=0)

        def answer(given: WorkResult) -> None:
            self._batch.watch.add(boxes=given.seconds)
            assert isinstance(given.result, FoundBoxes | Exception)
            self._batch.send(Located(scored=scored, result=given.result))

        try:
            self._batch.worker.device.submit_late(owner=self._batch, finder=finder, prepared=prepared, answer=answer)
        except Exception as error:  # noqa: BLE001 - judged by its kind where it is gathered
            self._batch.send(Located(scored=scored, result=error))
        finally:
            ended()
