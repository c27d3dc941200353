"""The work of stage threads in the first pass: fetch, decode and prepare an image, and find boxes in a
flagged one or explain it.

Of a file with several pictures, each that the check asks for is prepared and read as a row of its own.

Every result and every error is sent to the coordinator of the batch (`worker.batch.attempt`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from functools import partial

from PIL import Image

from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.decoding.answers import Answer
from scanfleet.images import Decoded, Enough, Fitted
from scanfleet.images.fit import Fit
from scanfleet.models.types import Explainer, Finder, FoundBoxes, Prepared, Reading, Resized, Written
from scanfleet.worker.batch.context import BatchContext
from scanfleet.worker.batch.events import Duplicates, Explained, Fetched, ImageResult, Located, NotFetched
from scanfleet.worker.batch.frame_reads import FrameReads, FrameRow
from scanfleet.worker.device.queue import WorkResult
from scanfleet.worker.runtime.file_buffer import KeptFiles


class FirstPass:
    """kept: files that the crop pass may need again; None: there is no crop pass."""

    def __init__(self, batch: BatchContext, kept: KeptFiles | None) -> None:
        self._batch = batch
        self._kept = kept
        detail = batch.resolved.scorer.detail
        self._enough = None if detail is None else Enough(detail.pixels, detail.short_side)
        self._fit = None if detail is None or detail.resizing is None else Fit(*detail.resizing)

    def fetch(self, image: ClaimedImage) -> None:
        """Send the bytes of the image."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.expect_fetch()
        try:
            with self._batch.watch.measure("fetch"):
                store = self._batch.worker.stores(image.uri, image.root)
                most = self._batch.worker.settings.max_image_bytes
                found = store.fetch(image.uri, etag=image.pin, max_bytes=most)
                sha256 = hashlib.sha256(found.data).hexdigest()
            self._batch.send(Fetched(image=image, data=found.data, etag=found.etag, sha256=sha256))
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(NotFetched(image=image, error=error))
        finally:
            ended()

    def prepare(self, turn: list[tuple[Duplicates, bytes]]) -> None:
        """Queue the images at the device, which sends their readings.

        turn: it is emptied: the executor keeps its arguments until the call ends, which may take long.
        """
        waiting = deque(turn)
        turn.clear()
        n_bytes = sum(len(data) for _, data in waiting)
        if self._batch.closed.is_set():
            self._batch.worker.files.drop(n_bytes)
            return
        # No long time is announced: decoding takes seconds, and the pool ends a decoder that hangs.
        ended = self._batch.activity.expect(seconds=0)
        try:
            try:
                answers = self._decode([data for _, data in waiting])
                if self._kept is not None:
                    for duplicates, data in waiting:
                        self._kept.keep(duplicates.sha256, data)
            finally:
                self._batch.worker.files.drop(n_bytes)
            images = deque(duplicates for duplicates, _ in waiting)
            waiting.clear()
            # Neither files nor pixels wait for the device: each is let go once it is prepared.
            while images and not self._batch.closed.is_set():
                self._read(images.popleft(), answers.popleft())
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            for duplicates, _ in waiting:
                self._batch.send(ImageResult(duplicates=duplicates, result=error))
        finally:
            ended()

    def _decode(self, files: Sequence[bytes]) -> deque[Answer]:
        """Raises DecodersUnavailable."""
        with self._batch.watch.measure("decode"):
            # Together the frames of a file have no more pixels than the largest picture may have.
            frames = self._batch.resolved.frames
            decoders = self._batch.worker.decoders
            return deque(decoders.decode_all(files, enough=self._enough, fit=self._fit, frames=frames))

    def _read(self, duplicates: Duplicates, pictures: Answer) -> None:
        if isinstance(pictures, Exception):
            self._batch.send(ImageResult(duplicates=duplicates, result=pictures))
            return
        try:
            n_frames = pictures[0].n_frames
            pictures.reverse()
            rows = [self._row(pictures.pop()) for _ in range(len(pictures))]
            resolved = self._batch.resolved
            keep = resolved.boxes is not None or resolved.explain is not None or self._kept is not None
            self._submit(FrameReads(duplicates, rows, n_frames=n_frames, keep_prepared=keep))
        except Exception as error:  # noqa: BLE001 - the coordinator judges it by its class
            self._batch.send(ImageResult(duplicates=duplicates, result=error))

    def _row(self, decoded: Decoded | Fitted) -> FrameRow:
        with self._batch.watch.measure("prepare"):
            prepared = self._batch.resolved.scorer.prepare(_picture(decoded))
        return FrameRow(
            prepared=prepared,
            width=decoded.width,
            height=decoded.height,
            frame=decoded.frame,
            notes=decoded.notes,
        )

    def _submit(self, reads: FrameReads) -> None:
        for number, row in enumerate(reads.rows):
            self._batch.worker.device.submit(
                owner=self._batch,
                scorer=self._batch.resolved.scorer,
                prepared=row.prepared,
                on_result=partial(self._row_read, reads, number),
            )

    def _row_read(self, reads: FrameReads, number: int, work: WorkResult) -> None:
        """Called in a device thread."""
        assert isinstance(work.result, Reading | Exception)
        self._batch.watch.add_first(work, further=number > 0)
        result = reads.add(number, work.result)
        if result is not None:
            self._batch.send(result)

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

    def explain(self, scored: ImageResult, explainer: Explainer, prepared: Prepared) -> None:
        """Queue the image for the explainer; the device sends its text."""
        if self._batch.closed.is_set():
            return
        ended = self._batch.activity.expect(seconds=0)

        def explained(work: WorkResult) -> None:
            self._batch.watch.add(explaining=work.seconds)
            assert isinstance(work.result, Written | Exception)
            self._batch.send(Explained(scored=scored, result=work.result))

        try:
            assert isinstance(scored.result, Reading)
            self._batch.worker.device.submit_explaining(
                owner=self._batch,
                explainer=explainer,
                prepared=prepared,
                reading=scored.result,
                on_result=explained,
            )
        except Exception as error:  # noqa: BLE001 - the verdict says why it has no explanation
            self._batch.send(Explained(scored=scored, result=error))
        finally:
            ended()


def _picture(decoded: Decoded | Fitted) -> Image.Image | Resized:
    if isinstance(decoded, Decoded):
        return decoded.image
    return Resized(rgb=decoded.rgb, size=decoded.size, original_size=decoded.decoded_size)
