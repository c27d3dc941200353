"""One attempt at one batch: fetch, decode and prepare in threads, score on the device, and collect the results.

The calling thread only coordinates. Threads send it events through its inbox, so an abort ends it at once, whatever the
stages are doing. Memory is bounded. Per batch, at most `fetch_threads` images are being fetched, about as many wait for
a lookup, and as many to be decoded. All batches together fetch no more files than make `file_buffer.MANY_BYTES`, apart
from one in each batch. A stage thread holds the pictures of one turn of a decoder (`decoding.region.REGION_BYTES`, or
one picture). It waits with prepared ones until the device queue has space.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue

from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.decoding.protocol import MOST_FILES
from scanfleet.errors import ImageError
from scanfleet.worker.batch.context import BatchContext, ScanBytes, WorkerContext
from scanfleet.worker.batch.crop_pass import CropPass
from scanfleet.worker.batch.events import (
    Abort,
    CropRead,
    CropStepDone,
    Duplicates,
    Event,
    Explained,
    Fetched,
    ImageResult,
    Located,
    NotFetched,
)
from scanfleet.worker.batch.first_pass import FirstPass
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.batch.timing import Stopwatch
from scanfleet.worker.scoring.boxes import StoredBoxes, stored
from scanfleet.worker.scoring.explanations import explanation_of
from scanfleet.worker.scoring.factory import Resolved

FETCHES_A_LOOKUP = 2  # of each stage thread, where there are so many

OnFetched = Callable[[ClaimedImage, str], None]  # with the SHA-256 of its bytes
OnRead = Callable[[ClaimedImage, ImageResult], None]


class Aborted(Exception):
    """The lease is lost, or the batch is to be handed back: the results so far are all there are."""


class BatchRun:
    """Run one attempt, and fill `results`. `watch.allowance` bounds the crop pass."""

    def __init__(
        self,
        *,
        images: Sequence[ClaimedImage],
        attempt: int,
        resolved: Resolved,
        context: WorkerContext,
        results: BatchResults,
        watch: Stopwatch,
        scan_id: str,
        on_fetched: OnFetched = lambda _, __: None,
        on_read: OnRead = lambda _, __: None,
    ) -> None:
        self._on_fetched = on_fetched
        self._on_read = on_read
        self._results = results
        # A later attempt starts elsewhere, so that an image which keeps waiting does not delay those behind it.
        start = (attempt - 1) * context.settings.fetch_threads % len(images) if images else 0
        self._todo = deque([*images[start:], *images[:start]])
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._n_fetching = 0
        self._fetched: deque[Fetched] = deque()  # not yet looked up in the ledger
        self._n_first = 0  # images in the first pass
        self._n_open = 0  # images between their lookup and their result
        self._duplicates: dict[str, Duplicates] = {}  # by SHA-256
        name = f"images {images[0].id} to {images[-1].id}" if images else "no image"
        self._batch = BatchContext(
            worker=context,
            scan_id=scan_id,
            resolved=resolved,
            watch=watch,
            activity=context.tracker.activity(self.abort, name=name),
            closed=threading.Event(),
            send=self._inbox.put,
        )
        self._crop_pass: CropPass | None = None
        if resolved.crop_setup is not None:
            assert watch.allowance is not None
            self._crop_pass = CropPass(self._batch, resolved.crop_setup, watch.allowance)
        self._first_pass = FirstPass(self._batch, None if self._crop_pass is None else self._crop_pass.files)

    def abort(self, reason: str) -> None:
        """Make `run` raise Aborted. May be called from any thread."""
        self._batch.closed.set()
        self._inbox.put(Abort(reason=reason))

    def run(self) -> None:
        """Raises Aborted, DatabaseUnavailable."""
        try:
            with self._batch.worker.tracker.under_way(self._batch.activity):
                while True:
                    self._start_fetches()
                    self._run_crop_pass()
                    if not self._n_fetching and not self._n_open:
                        return  # every fetched image has been looked up: see `_may_wait_for_others`
                    self._handle(self._next_events())
                    self._batch.activity.sign()
        finally:
            self._batch.closed.set()  # stage threads drop what they still hold for this batch
            self._batch.worker.device.forget(self._batch)
            if self._crop_pass is not None:
                self._crop_pass.close()
            self._batch.worker.files.drop(sum(len(item.data) for item in self._fetched))
            self._batch.worker.files.give_up(self._n_fetching)

    def _start_fetches(self) -> None:
        worker = self._batch.worker
        if self._results.is_blocked(patience=worker.settings.fetch_threads):
            self._todo.clear()  # each of the others would only run into the same timeout
        while self._todo and self._n_fetching < worker.settings.fetch_threads:
            if worker.files.many and (self._n_fetching or self._n_first):
                return
            worker.files.begin()
            self._n_fetching += 1
            worker.threads.submit(self._first_pass.fetch, self._todo.popleft())

    def _run_crop_pass(self) -> None:
        """Start a round once the first pass is over, and take what has finished."""
        if self._crop_pass is None:
            return
        if not (self._todo or self._n_fetching or self._fetched or self._n_first):
            self._crop_pass.start_round()
        for result in self._crop_pass.take_finished():
            self._locate_or_finish(result)

    def _next_events(self) -> list[Event]:
        """Wait for an event, and return it with all others that are there."""
        events = [self._inbox.get()]
        try:
            while True:
                events.append(self._inbox.get_nowait())
        except Empty:
            return events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Abort(reason=reason):
                    raise Aborted(reason)
                case NotFetched(image=image, error=error):
                    self._n_fetching -= 1
                    self._batch.worker.files.give_up()
                    self._results.add_error(image, error)
                case Fetched():
                    self._n_fetching -= 1
                    self._results.count_fetched(event.image, event.etag, size=len(event.data))
                    self._fetched.append(event)
                    self._batch.worker.files.take(len(event.data))
                case ImageResult():
                    self._n_first -= 1
                    if self._crop_pass is None or not self._crop_pass.add_if_due(event):
                        self._locate_or_finish(event)
                case CropStepDone() | CropRead():
                    assert self._crop_pass is not None
                    self._crop_pass.handle(event)
                case Located():
                    self._explain_or_finish(self._with_boxes(event))
                case Explained():
                    event.scored.duplicates.prepared = None
                    self._finish(replace(event.scored, explanation=explanation_of(event.result)))
        if self._fetched and not self._may_wait_for_others():
            self._look_up_fetched()

    def _may_wait_for_others(self) -> bool:
        """Return True if the fetched images may wait for others, so that they share one lookup in the ledger.

        They also share turns of decoders then. No thread is free for them as long as there is more to fetch, or the
        first pass has images for all.
        """
        n = FETCHES_A_LOOKUP * self._batch.worker.settings.fetch_threads
        busy = bool(self._todo) or self._n_first >= n
        return self._n_fetching > 0 and len(self._fetched) < n and busy and not self._batch.worker.files.many

    def _look_up_fetched(self) -> None:
        """Score only bytes that this scorer has not read, neither in the ledger nor in this batch."""
        worker, resolved = self._batch.worker, self._batch.resolved
        unseen = {item.sha256 for item in self._fetched} - set(self._duplicates)
        query = ScanBytes(
            scan_id=self._batch.scan_id,
            scorer_id=resolved.scorer_id,
            hashes=unseen,
            explained=resolved.explain is not None,
        )
        answers = worker.answers_by_content(query)
        unread: list[tuple[Duplicates, bytes]] = []
        while self._fetched:
            self._on_fetched(self._fetched[0].image, self._fetched[0].sha256)
            item = self._fetched.popleft()
            earlier = answers.get(item.sha256)
            if earlier is not None or item.sha256 in self._duplicates:
                worker.files.drop(len(item.data))
            if isinstance(earlier, ImageError):
                self._results.add_error(item.image, earlier)
            elif earlier is not None:
                self._results.add_earlier(item.image, earlier)
            elif duplicates := self._duplicates.get(item.sha256):
                duplicates.images.append(item.image)
                if duplicates.answer is not None:
                    self._add_results(duplicates.answer, [item.image])
            else:
                duplicates = self._duplicates[item.sha256] = Duplicates(
                    sha256=item.sha256, size=len(item.data), images=[item.image]
                )
                self._n_open += 1
                self._n_first += 1
                unread.append((duplicates, item.data))
        for start in range(0, len(unread), MOST_FILES):
            worker.threads.submit(self._first_pass.prepare, unread[start : start + MOST_FILES])

    def _locate_or_finish(self, scored: ImageResult) -> None:
        """All readings of the image are done: ask the finder for boxes if they are due, or finish the image."""
        boxes, prepared = self._batch.resolved.boxes, scored.duplicates.prepared
        if boxes is None or not self._is_flagged(scored):
            self._explain_or_finish(scored)
        elif boxes.finder is None or prepared is None:
            self._explain_or_finish(replace(scored, boxes=StoredBoxes(problems=(boxes.why_not,))))
        else:
            self._batch.worker.threads.submit(self._first_pass.locate, scored, boxes.finder, prepared)

    def _explain_or_finish(self, scored: ImageResult) -> None:
        """All but the explanation is done: ask for it if it is due, or finish the image."""
        explain, prepared = self._batch.resolved.explain, scored.duplicates.prepared
        if explain is not None and self._is_flagged(scored):
            if explain.explainer is not None and prepared is not None:
                self._batch.worker.threads.submit(self._first_pass.explain, scored, explain.explainer, prepared)
                return
            scored = replace(scored, explanation=explain.nothing)
        scored.duplicates.prepared = None
        self._finish(scored)

    def _is_flagged(self, scored: ImageResult) -> bool:
        if isinstance(scored.result, Exception):
            return False
        complete = scored.crop is None or scored.crop.complete
        policy = self._batch.resolved.policy.after(scored.crop)
        return replace(self._batch.resolved, policy=policy).flags(scored.result, complete=complete)

    def _with_boxes(self, located: Located) -> ImageResult:
        """A device that fails makes the image wait, as in scoring. Boxes that cannot be parsed do not."""
        scored, found = located.scored, located.result
        if isinstance(found, Exception):
            return replace(scored, result=found)
        return replace(scored, boxes=stored(found, width=scored.width, height=scored.height))

    def _finish(self, answer: ImageResult) -> None:
        self._n_open -= 1
        answer.duplicates.answer = answer
        self._add_results(answer, answer.duplicates.images)

    def _add_results(self, answer: ImageResult, images: Sequence[ClaimedImage]) -> None:
        for image in images:
            if isinstance(answer.result, Exception):
                self._results.add_error(image, answer.result)
            else:
                self._on_read(image, answer)
                self._results.add_reading(
                    image,
                    answer.result,
                    sha256=answer.duplicates.sha256,
                    width=answer.width,
                    height=answer.height,
                    boxes=answer.boxes,
                    crop=answer.crop,
                    frames=answer.frames,
                    notes=answer.notes,
                    explanation=answer.explanation,
                )
