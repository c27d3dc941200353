"""The work of stage threads in the crop pass: fetch the file again if needed, and make its views and its rows.

Every result and every error is sent to the coordinator of the batch (`worker.batch.crop_pass`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

from scanfleet.errors import ImageError, Retryable
from scanfleet.images import Enough
from scanfleet.models.types import CropReader, Reading
from scanfleet.worker.batch.context import BatchContext
from scanfleet.worker.batch.events import CropRead, CropStepDone, DueCrop, Duplicates, Event
from scanfleet.worker.device.queue import WorkResult
from scanfleet.worker.runtime.file_buffer import KeptFiles


class CropStages:
    """Stage threads call `make_views`, `submit_views`, `make_rows` and `submit_rows`."""

    def __init__(self, batch: BatchContext, crop_reader: CropReader) -> None:
        self._batch = batch
        self._crop_reader = crop_reader
        self.files = KeptFiles(batch.worker.files)

    def make_views(self, due: DueCrop) -> None:
        """Send the views that point to the crop."""
        detail = self._crop_reader.views_detail
        enough = None if detail is None else Enough(detail.pixels, detail.short_side)
        self._run(due, enough, lambda image: self._crop_reader.views(image, due.reading))

    def make_rows(self, due: DueCrop) -> None:
        """Send the rows that are to be read."""
        self._run(due, None, lambda image: self._crop_reader.rows(image, due.pointed))

    def submit_views(self, due: DueCrop) -> None:
        """Queue the views at the device, which sends where the crop is."""

        def pointed(work: WorkResult) -> None:
            self._batch.watch.add(pointing=work.seconds)
            self._batch.send(CropStepDone(due=due, result=work.result))

        def submit() -> None:
            self._batch.worker.device.submit_pointing(
                owner=self._batch,
                crop_reader=self._crop_reader,
                scorer=self._batch.resolved.scorer,
                views=views,
                on_result=pointed,
            )

        views, due.step = due.step, None
        self._submit(submit, lambda error: CropStepDone(due=due, result=error))

    def submit_rows(self, due: DueCrop) -> None:
        """Queue the rows at the device, which sends their readings."""
        rows, due.step = due.step, None

        def submit() -> None:
            for number, row in enumerate(rows):
                self._batch.worker.device.submit(
                    owner=self._batch,
                    scorer=self._batch.resolved.scorer,
                    prepared=row,
                    on_result=partial(self._row_read, due, number),
                )

        self._submit(submit, lambda error: CropRead(due=due, answers=(error,)))

    def _row_read(self, due: DueCrop, number: int, work: WorkResult) -> None:
        """Called in a device thread."""
        assert isinstance(work.result, Reading | Exception)
        self._batch.watch.add_crop_row(work)
        if due.add_answer(number, work.result):
            self._batch.send(CropRead(due=due, answers=tuple(due.answers.values())))

    def _submit(self, submit: Callable[[], None], failed: Callable[[Exception], Event]) -> None:
        if self._batch.closed.is_set():
            return
        ended = self._batch.activity.expect(seconds=0)
        try:
            submit()
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(failed(error))
        finally:
            ended()

    def _run(self, due: DueCrop, enough: Enough | None, work: Callable[[Image.Image], Any]) -> None:
        if self._batch.closed.is_set():
            return
        ended = self._batch.expect_fetch()
        try:
            self._batch.send(CropStepDone(due=due, result=self._with_picture(due, enough, work)))
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(CropStepDone(due=due, result=error))
        finally:
            ended()

    def _with_picture(self, due: DueCrop, enough: Enough | None, work: Callable[[Image.Image], Any]) -> Any:
        """Call `work` with the image. All batches together hold few such images: they have all their pixels."""
        data = self._file(due.duplicates)
        with self._batch.worker.pictures:
            with self._batch.watch.measure("decode"):
                frames = due.first.frames
                frame = 0 if frames is None else frames.frame
                decoded = self._batch.worker.decoders.decode(data, enough=enough, frame=frame)
            with self._batch.watch.measure("prepare"):
                return work(decoded.image)

    def _file(self, duplicates: Duplicates) -> bytes:
        """Return the bytes of the first pass: kept, or fetched again under any of their names.

        Raises ImageError when no name has them any more, StoreUnavailable when that is not certain.
        """
        kept = self.files.get(duplicates.sha256)
        if kept is not None:
            return kept
        errors: list[Exception] = []
        for image in tuple(duplicates.images):
            try:
                with self._batch.watch.measure("fetch"):
                    store = self._batch.worker.stores(image.uri, image.root)
                    most = self._batch.worker.settings.max_image_bytes
                    data = store.fetch(image.uri, etag=image.pin, max_bytes=most).data
            except (ImageError, Retryable) as error:
                errors.append(error)
                continue
            if hashlib.sha256(data).hexdigest() == duplicates.sha256:
                self.files.keep(duplicates.sha256, data)
                return data
            detail = "the file has changed since the first pass"
            errors.append(ImageError(stage="fetch", reason="changed", detail=detail))
        raise next((error for error in errors if isinstance(error, Retryable)), errors[0])
