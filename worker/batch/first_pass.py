"""The work of stage threads in the first pass: fetch, decode and prepare an image, and find boxes in a flagged one.

Every result and every error is sent to the coordinator of the batch (`worker.batch.attempt`).
"""

from __future__ import annotations

import hashlib

from models.types import Finder, FoundBoxes, Prepared, Reading
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.images import Enough
from worker.batch.context import BatchContext
from worker.batch.events import Duplicates, Fetched, ImageResult, Located, NotFetched
from worker.batch.file_buffer import KeptFiles
from worker.device.queue import WorkResult


class FirstPass:
    """kept: files that the crop pass may need again; None: there is no crop pass."""

    def __init__(self, batch: BatchContext, kept: KeptFiles | None) -> None:
        self._batch = batch
        self._kept = kept
        detail = batch.resolved.scorer.detail
        self._enough = None if detail is None else Enough(detail.pixels, detail.short_side)

    def fetch(self, image: ClaimedImage) -> None:
        """Send the bytes of the image."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.expect_fetch()
        try:
            with self._batch.watch.measure("fetch"):
                store = self._batch.worker.stores(image.uri, image.root)
                data = store.fetch(image.uri, etag=image.etag, max_bytes=self._batch.worker.settings.max_image_bytes)
                sha256 = hashlib.sha256(data).hexdigest()
            self._batch.send(Fetched(image=image, data=data, sha256=sha256))
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(NotFetched(image=image, error=error))
        finally:
            ended()

    def prepare(self, duplicates: Duplicates, box: list[bytes]) -> None:
        """Queue the image at the device, which sends the reading.

        box: holds the file, which is taken out. The executor keeps its arguments until the call ends, which may take
        long.
        """
        n_bytes = len(box[0])
        if self._batch.closed.is_set():
            self._batch.worker.files.drop(n_bytes)
            return
        # No long time is announced: decoding takes seconds, and the pool ends a decoder that hangs.
        ended = self._batch.activity.expect(seconds=0)
        try:
            try:
                data = box.pop()
                with self._batch.watch.measure("decode"):
                    decoded = self._batch.worker.decoders.decode(data, enough=self._enough)
                if self._kept is not None:
                    self._kept.keep(duplicates.sha256, data)
                del data
            finally:
                self._batch.worker.files.drop(n_bytes)
            width, height = decoded.width, decoded.height
            with self._batch.watch.measure("prepare"):
                prepared = self._batch.resolved.scorer.prepare(decoded.image)
            del decoded  # its pixels need not wait for the device
            if self._batch.resolved.boxes is not None or self._kept is not None:
                duplicates.prepared = prepared
            self._submit(duplicates, prepared, width, height)
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(ImageResult(duplicates=duplicates, result=error))
        finally:
            ended()

    def _submit(self, duplicates: Duplicates, prepared: Prepared, width: int, height: int) -> None:
        def read(work: WorkResult) -> None:
            self._batch.watch.add_first(work)
            assert isinstance(work.result, Reading | Exception)
            self._batch.send(ImageResult(duplicates=duplicates, result=work.result, width=width, height=height))

        self._batch.worker.device.submit(
            owner=self._batch, scorer=self._batch.resolved.scorer, prepared=prepared, on_result=read
        )

    def locate(self, scored: ImageResult, finder: Finder, prepared: Prepared) -> None:
        """Queue the image for the finder; the device sends its boxes."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.activity.expect(seconds=0)

        def located(work: WorkResult) -> None:
            self._batch.watch.add(boxes=work.seconds)
            assert isinstance(work.result, FoundBoxes | Exception)
            self._batch.send(Located(scored=scored, result=work.result))

        try:
            self._batch.worker.device.submit_finding(
                owner=self._batch, finder=finder, prepared=prepared, on_result=located
            )
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(Located(scored=scored, result=error))
        finally:
            ended()
