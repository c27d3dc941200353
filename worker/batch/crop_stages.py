"""The work of second looks that threads do: the file once more, what it is looked through by, its rows.

Whatever comes of it is told to the coordinator of the batch (`worker.batch.crop_pass`), errors as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

from models.types import CropReader, Reading
from scanfleet.errors import ImageError, Retryable
from scanfleet.images import Enough
from worker.batch.context import BatchContext
from worker.batch.events import CropRead, DueCrop, Event, Stepped, Twins
from worker.decoding.file_buffer import KeptFiles
from worker.device.queue import WorkResult


class CropStages:
    """Each of `view`, `submit_views`, `make_rows` and `submit_rows` is for the stage threads."""

    def __init__(self, batch: BatchContext, crop_reader: CropReader) -> None:
        self._batch = batch
        self._crop_reader = crop_reader
        self.files = KeptFiles(batch.worker.files)

    def view(self, due: DueCrop) -> None:
        """Tells what is looked through."""
        detail = self._crop_reader.views_detail
        enough = None if detail is None else Enough(detail.pixels, detail.short_side)
        self._tell(
            due, lambda: self._with_picture(due, enough, lambda image: self._crop_reader.views(image, due.reading))
        )

    def make_rows(self, due: DueCrop) -> None:
        """Tells the rows that are to be read."""
        self._tell(due, lambda: self._with_picture(due, None, lambda image: self._crop_reader.rows(image, due.pointed)))

    def submit_views(self, due: DueCrop) -> None:
        """The device tells where the look is pointed."""

        def answer(given: WorkResult) -> None:
            self._batch.watch.add(pointing=given.seconds)
            self._batch.send(Stepped(due=due, result=given.result))

        def submit() -> None:
            self._batch.worker.device.submit_pointing(
                owner=self._batch,
                crop_reader=self._crop_reader,
                scorer=self._batch.resolved.scorer,
                views=views,
                answer=answer,
            )

        views, due.step = due.step, None
        self._submit(submit, lambda error: Stepped(due=due, result=error))

    def submit_rows(self, due: DueCrop) -> None:
        """The device tells what was read."""
        rows, due.step = due.step, None

        def submit() -> None:
            for number, row in enumerate(rows):
                self._batch.worker.device.submit(
                    owner=self._batch,
                    scorer=self._batch.resolved.scorer,
                    prepared=row,
                    answer=partial(self._row_read, due, number),
                )

        self._submit(submit, lambda error: CropRead(due=due, answers=(error,)))

    def _row_read(self, due: DueCrop, number: int, given: WorkResult) -> None:
        """In a device thread."""
        assert isinstance(given.result, Reading | Exception)
        self._batch.watch.read_again(given)
        if due.answered(number, given.result):
            self._batch.send(CropRead(due=due, answers=tuple(due.answers.values())))

    def _submit(self, submit: Callable[[], None], failed: Callable[[Exception], Event]) -> None:
        if self._batch.closed.is_set():
            return
        ended = self._batch.activity.expect(seconds=0)
        try:
            submit()
        except Exception as error:  # noqa: BLE001 - judged by its kind where it is gathered
            self._batch.send(failed(error))
        finally:
            ended()

    def _tell(self, due: DueCrop, work: Callable[[], Any]) -> None:
        if self._batch.closed.is_set():
            return
        ended = self._batch.expect_fetch()
        try:
            self._batch.send(Stepped(due=due, result=work()))
        except Exception as error:  # noqa: BLE001 - judged by its kind where it is gathered
            self._batch.send(Stepped(due=due, result=error))
        finally:
            ended()

    def _with_picture(self, due: DueCrop, enough: Enough | None, work: Callable[[Image.Image], Any]) -> Any:
        """What `work` makes of the image. Few are held at once, by all batches together: they have all their pixels."""
        data = self._file(due.twins)
        with self._batch.worker.pictures:
            with self._batch.watch.measure("decode"):
                decoded = self._batch.worker.decoders.decode(data, enough=enough)
            with self._batch.watch.measure("prepare"):
                return work(decoded.image)

    def _file(self, twins: Twins) -> bytes:
        """The bytes of the first look: kept, or fetched again under any of their names.

        Raises ImageError when they are to be had nowhere any more, StoreUnavailable when that is not certain.
        """
        kept = self.files.get(twins.sha256)
        if kept is not None:
            return kept
        errors: list[Exception] = []
        worker = self._batch.worker
        for image in tuple(twins.images):
            try:
                with self._batch.watch.measure("fetch"):
                    store = worker.stores(image.uri, image.root)
                    data = store.fetch(image.uri, etag=image.etag, max_bytes=worker.settings.max_image_bytes)
            except (ImageError, Retryable) as error:
                errors.append(error)
                continue
            if hashlib.sha256(data).hexdigest() == twins.sha256:
                self.files.keep(twins.sha256, data)
                return data
            detail = "other bytes than at the first look"
            errors.append(ImageError(stage="fetch", reason="changed", detail=detail))
        raise next((error for error in errors if isinstance(error, Retryable)), errors[0])
