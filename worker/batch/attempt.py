"""One attempt at one batch: fetch, decode and prepare in threads, score on the device, and gather what came of it.

The calling thread only coordinates: everything that happens elsewhere arrives as an event in its inbox, so an abort
ends it at once whatever the stages are doing. Memory stays bounded: per batch, at most `fetch_threads` images are being
fetched, about as many wait for a lookup and as many to be decoded; all batches together fetch no more files than make
`files.MANY_BYTES`, but for one in each. A stage thread holds one picture, and with a prepared one it waits until the
device has room.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue

from models.types import Reading
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import ImageError
from worker.batch.context import BatchContext, ScanBytes, WorkerContext
from worker.batch.crop_pass import CropPass
from worker.batch.events import Abort, Answered, CropRead, Event, Fetched, Located, NotFetched, Stepped, Twins
from worker.batch.first_pass import FirstPass
from worker.batch.results import BatchResults
from worker.batch.timing import Stopwatch
from worker.scoring.boxes import StoredBoxes, stored
from worker.scoring.factory import Resolved

OnFetched = Callable[[ClaimedImage, str], None]  # with the SHA-256 of its bytes


class Aborted(Exception):
    """The batch is not ours any more, or is to be handed back: what is gathered by then is all there will be."""


class BatchRun:
    """`run` fills `results`. `watch.allowance` bounds the crop passes."""

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
    ) -> None:
        self._on_fetched = on_fetched
        self._results = results
        self._worker = context
        name = f"images {images[0].id} to {images[-1].id}" if images else "no image"
        # A later attempt starts elsewhere, so that no image which keeps waiting holds up those behind it.
        start = (attempt - 1) * context.settings.fetch_threads % len(images) if images else 0
        self._todo = deque([*images[start:], *images[:start]])
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._fetching = 0
        self._fetched: deque[Fetched] = deque()  # and not yet looked up
        self._first = 0  # looks under way
        self._scoring = 0  # images under way: at their first look, waiting for the second, at that, or asked for boxes
        self._twins: dict[str, Twins] = {}
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
        self._steps = FirstPass(self._batch, None if self._crop_pass is None else self._crop_pass.files)

    def abort(self, why: str) -> None:
        """End `run` with Aborted; from any thread."""
        self._batch.closed.set()
        self._inbox.put(Abort(why=why))

    def run(self) -> None:
        """Raises Aborted, DatabaseUnavailable."""
        try:
            with self._worker.tracker.under_way(self._batch.activity):
                while True:
                    self._fill()
                    self._look_again()
                    if not self._fetching and not self._scoring:
                        return  # whatever was fetched has been looked up: see `_enough_to_do`
                    self._handle(self._arrivals())
                    self._batch.activity.sign()
        finally:
            self._batch.closed.set()  # stage threads drop what they still hold for us
            self._worker.device.forget(self._batch)
            if self._crop_pass is not None:
                self._crop_pass.close()
            self._worker.files.drop(sum(len(item.data) for item in self._fetched))
            self._worker.files.give_up(self._fetching)

    def _fill(self) -> None:
        if self._results.is_blocked(patience=self._worker.settings.fetch_threads):
            self._todo.clear()  # one after the other would only run into the same time-out
        while self._todo and self._fetching < self._worker.settings.fetch_threads:
            if self._worker.files.many and (self._fetching or self._first):
                return
            self._worker.files.begin()
            self._fetching += 1
            self._worker.threads.submit(self._steps.fetch, self._todo.popleft())

    def _look_again(self) -> None:
        """Once no first look can come any more; and take up what came of second ones."""
        if self._crop_pass is None:
            return
        if not (self._todo or self._fetching or self._fetched or self._first):
            self._crop_pass.go_on()
        for answered in self._crop_pass.take_ended():
            self._looked(answered)

    def _arrivals(self) -> list[Event]:
        """At least one event, and all that came with it."""
        events = [self._inbox.get()]
        try:
            while True:
                events.append(self._inbox.get_nowait())
        except Empty:
            return events

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Abort(why=why):
                    raise Aborted(why)
                case NotFetched(image=image, error=error):
                    self._fetching -= 1
                    self._worker.files.give_up()
                    self._results.error(image, error)
                case Fetched():
                    self._fetching -= 1
                    self._results.fetched()
                    self._fetched.append(event)
                    self._worker.files.take(len(event.data))
                case Answered():
                    self._first -= 1
                    if self._crop_pass is None or not self._crop_pass.takes(event):
                        self._looked(event)
                case Stepped() | CropRead():
                    assert self._crop_pass is not None
                    self._crop_pass.handle(event)
                case Located():
                    self._conclude(self._with_boxes(event))
        if self._fetched and not self._enough_to_do():
            self._sort_out()

    def _enough_to_do(self) -> bool:
        """Whether images that were fetched may wait for others, so that they share one lookup in the ledger.

        As long as as many of the batch as there are stage threads go to the device, nobody could take them up.
        """
        n = self._worker.settings.fetch_threads
        return self._fetching > 0 and len(self._fetched) < n <= self._first and not self._worker.files.many

    def _looked(self, event: Answered) -> None:
        """All looks are done. So is the image, unless it is flagged and somebody is to be asked where."""
        boxes, prepared = self._batch.resolved.boxes, event.twins.prepared
        event.twins.prepared = None
        if isinstance(event.result, Exception) or boxes is None or not self._wants_boxes(event):
            self._conclude(event)
        elif boxes.finder is None or prepared is None:
            self._conclude(replace(event, boxes=StoredBoxes(problems=(boxes.why_not,))))
        else:
            self._worker.threads.submit(self._steps.locate, event, boxes.finder, prepared)

    def _wants_boxes(self, event: Answered) -> bool:
        assert isinstance(event.result, Reading)
        complete = event.crop is None or event.crop.complete
        policy = self._batch.resolved.policy.after(event.crop)
        return replace(self._batch.resolved, policy=policy).wants_boxes(event.result, complete=complete)

    def _with_boxes(self, located: Located) -> Answered:
        """A device that failed makes the image wait, as in scoring; an answer that nobody can read does not."""
        scored, found = located.scored, located.result
        if isinstance(found, Exception):
            return replace(scored, result=found)
        return replace(scored, boxes=stored(found, width=scored.width, height=scored.height))

    def _conclude(self, event: Answered) -> None:
        self._scoring -= 1
        event.twins.answer = event
        self._deliver(event.twins, event.twins.images)

    def _sort_out(self) -> None:
        """Score only bytes that this scorer has not seen, neither in the ledger nor in this batch."""
        unseen = {item.sha256 for item in self._fetched} - set(self._twins)
        asked = ScanBytes(scan_id=self._batch.scan_id, scorer_id=self._batch.resolved.scorer_id, hashes=unseen)
        known = self._worker.answers_by_content(asked)
        while self._fetched:
            self._on_fetched(self._fetched[0].image, self._fetched[0].sha256)
            item = self._fetched.popleft()
            earlier = known.get(item.sha256)
            if earlier is not None or item.sha256 in self._twins:
                self._worker.files.drop(len(item.data))
            if isinstance(earlier, ImageError):
                self._results.error(item.image, earlier)
            elif earlier is not None:
                self._results.taken_over(item.image, earlier)
            elif twins := self._twins.get(item.sha256):
                twins.images.append(item.image)
                if twins.answer is not None:
                    self._deliver(twins, [item.image])
            else:
                twins = self._twins[item.sha256] = Twins(sha256=item.sha256, images=[item.image])
                self._scoring += 1
                self._first += 1
                self._worker.threads.submit(self._steps.prepare, twins, [item.data])

    def _deliver(self, twins: Twins, images: Sequence[ClaimedImage]) -> None:
        answer = twins.answer
        assert answer is not None
        for image in images:
            if isinstance(answer.result, Exception):
                self._results.error(image, answer.result)
            else:
                self._results.reading(
                    image,
                    answer.result,
                    sha256=twins.sha256,
                    width=answer.width,
                    height=answer.height,
                    boxes=answer.boxes,
                    crop=answer.crop,
                )
