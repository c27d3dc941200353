"""The crop pass of one batch: which images get it, where the crop is, and the readings of the crops.

It begins when the first pass of the batch is over, so that the least certain images come first in whatever order they
arrived. Rounds of a few images go through the same steps side by side. Within a round all wait for each other after
each step, and tokens are granted in the order of the images: the result does not depend on the speed of threads.

    views    the file again, decoded as far as pointing needs it      stage threads
    point    where the crop is; these two only for a pointed crop     the device
    rows     the file with all its pixels, cropped and prepared       stage threads
    read     the rows, by the scorer of the first pass                the device; the next round begins meanwhile

An error in a step makes the image wait or fail as in the first pass: the first pass alone never decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from scanfleet.checks.crop_result import CAP, CropResult
from scanfleet.errors import Retryable
from scanfleet.models.crops.cutting import region_of
from scanfleet.models.types import Pointed, Prepared, Reading
from scanfleet.stats.stage_times import SKIPPED
from scanfleet.worker.batch.context import BatchContext
from scanfleet.worker.batch.crop_stages import CropStages
from scanfleet.worker.batch.events import CropRead, CropStepDone, DueCrop, ImageResult
from scanfleet.worker.scoring.crop import CropSetup
from scanfleet.worker.scoring.crop_selection import Allowance, Resized, crop_reason, order, shrink_of

ROUND_IMAGES = 8
ASSUMED_COST = 4  # times the tokens of the first pass, until the first crop of the batch is measured


class CropPass:
    """Only the coordinator of the batch calls its methods."""

    def __init__(self, batch: BatchContext, setup: CropSetup, allowance: Allowance) -> None:
        self._batch = batch
        self._setup = setup
        self._allowance = allowance
        self._stages = CropStages(batch, setup.crop_reader)
        self.files = self._stages.files
        self._due: list[DueCrop] = []  # not yet begun
        self._finished: list[ImageResult] = []
        self._in_step: list[DueCrop] = []
        self._n_open = 0  # results that the step of this round waits for
        self._next_step: Callable[[Sequence[DueCrop]], None] = self._read
        self._highest_cost = 0  # tokens of one image so far
        self._lowest_cost = 0  # 0: none so far

    def add_if_due(self, first: ImageResult) -> bool:
        """Return True if the image is due for the crop pass; `take_finished` gives it back then."""
        duplicates, reading, prepared = first.duplicates, first.result, first.duplicates.prepared
        why = None
        if isinstance(reading, Reading):
            self._allowance.earn(reading.visual_tokens)
            if math.isfinite(reading.margin):
                shrink = shrink_of((first.width, first.height), cast("Resized", prepared))
                why = crop_reason(self._setup.settings, reading, self._setup.band, shrink=shrink)
        if why is None:
            self.files.drop(duplicates.sha256)
            return False
        if self._batch.resolved.boxes is None:
            duplicates.prepared = None
        self._due.append(DueCrop(first=first, why=why))
        return True

    def start_round(self) -> None:
        """Start the next round unless one is running. Call it only when the first pass of the batch is over."""
        self._due.sort(key=lambda due: order(due.reading, self._setup.band, due.duplicates.sha256))
        while self._due and not self._n_open:
            n = self._affordable()
            if not n:
                for due in self._due:
                    self._skip(due, CAP)
                self._due = []
                return
            begun, self._due = self._due[:n], self._due[n:]
            if self._setup.crop_reader.pointed:
                self._run_step(begun, self._stages.make_views, self._point)
            else:
                self._run_step(begun, self._stages.make_rows, self._read)

    def take_finished(self) -> list[ImageResult]:
        """Return the images that have finished since the last call: read, skipped or with an error."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        self.files.close()

    def handle(self, event: CropStepDone | CropRead) -> None:
        if isinstance(event, CropRead):
            self._fuse(event)
            return
        event.due.step = event.result
        self._n_open -= 1
        if not self._n_open:
            self._next_step(self._in_step)

    # the steps

    def _affordable(self) -> int:
        """Return the number of images in the next round; 0 if the tokens left do not pay for the cheapest so far."""
        left = self._allowance.left
        if left <= 0 or left < self._lowest_cost:
            return 0
        each = self._highest_cost or ASSUMED_COST * self._due[0].reading.visual_tokens
        return ROUND_IMAGES if left >= ROUND_IMAGES * each else max(1, int(left // each))

    def _run_step(
        self, dues: Sequence[DueCrop], work: Callable[[DueCrop], None], next_step: Callable[[Sequence[DueCrop]], None]
    ) -> None:
        """Run `work` for each image in the stage threads, and `next_step` when all results are in."""
        self._n_open, self._in_step, self._next_step = len(dues), list(dues), next_step
        for due in dues:
            self._batch.worker.threads.submit(work, due)

    def _succeeded(self, dues: Sequence[DueCrop]) -> list[DueCrop]:
        """Return the images whose step succeeded, and finish the others with their error."""
        succeeded = []
        for due in dues:
            if isinstance(due.step, Exception):
                self._finish(replace(due.first, result=due.step), due)
            else:
                succeeded.append(due)
        return succeeded

    def _point(self, dues: Sequence[DueCrop]) -> None:
        begun = []
        for due in self._succeeded(dues):
            if not self._allowance.take(due.step.visual_tokens):
                self._skip(due, CAP)
                continue
            due.tokens = due.step.visual_tokens
            begun.append(due)
        self._run_step(begun, self._stages.submit_views, self._crop)

    def _crop(self, dues: Sequence[DueCrop]) -> None:
        found = []
        for due in self._succeeded(dues):
            pointed: Pointed = due.step
            self._allowance.correct(pointed.tokens - due.tokens)
            self._batch.watch.add(again_tokens=pointed.tokens)
            due.tokens, due.pointed = pointed.tokens, pointed
            if pointed.corners is None:
                self._skip(due, pointed.why_not)
            else:
                found.append(due)
        self._run_step(found, self._stages.make_rows, self._read)

    def _read(self, dues: Sequence[DueCrop]) -> None:
        for due in self._succeeded(dues):
            rows: Sequence[Prepared] = due.step
            if not rows:
                self._skip(due, "enough")
                continue
            cost = sum(row.visual_tokens for row in rows)
            self._highest_cost = max(self._highest_cost, due.tokens + cost)
            self._lowest_cost = min(self._lowest_cost or cost, cost)
            if not self._allowance.take(cost):
                self._skip(due, CAP)
                continue
            due.tokens += cost
            due.n_rows = len(rows)
            self._batch.worker.threads.submit(self._stages.submit_rows, due)

    # the results

    def _fuse(self, event: CropRead) -> None:
        due, answers = event.due, event.answers
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if failed:
            error = next((error for error in failed if isinstance(error, Retryable)), failed[0])
            self._finish(replace(due.first, result=error), due)
            return
        second = [answer for answer in answers if isinstance(answer, Reading)]
        broken = next((reading for reading in second if not math.isfinite(reading.margin)), None)
        if broken is not None:
            self._finish(replace(due.first, result=broken), due)
            return
        self._batch.watch.add(again=1)
        crop = self._crop_result(due, second=max(reading.margin for reading in second))
        self._finish(replace(due.first, result=self._setup.crop_reader.fuse(due.reading, second), crop=crop), due)

    def _skip(self, due: DueCrop, why: str) -> None:
        self._batch.watch.add(**{SKIPPED[why]: 1})
        self._finish(replace(due.first, crop=self._crop_result(due, skipped=why)), due)

    def _crop_result(self, due: DueCrop, *, second: float | None = None, skipped: str | None = None) -> CropResult:
        pointed, size = due.pointed, (due.first.width, due.first.height)
        region = None if pointed is None else region_of(pointed, size)
        return CropResult(
            why=due.why,
            first=due.reading.margin,
            second=second,
            box=None if region is None else region.corners,
            sharpness=None if pointed is None else pointed.sharpness,
            skipped=skipped,
            tokens=due.tokens,
            look=self._setup.settings.look,
            method=self._setup.method,
        )

    def _finish(self, result: ImageResult, due: DueCrop) -> None:
        due.step = None
        if result.crop is None:  # an error: the image waits or fails
            self._allowance.postpone(first=due.reading.visual_tokens, granted=due.tokens)
        self.files.drop(due.duplicates.sha256)
        self._finished.append(result)
