"""The second looks of one batch: which images get one, where they are pointed, and what they read.

They begin when all first looks of the batch are answered, so that the least certain images come first whatever came in
first. Rounds of a few images go through the same steps side by side; within a round all wait for each other after each
step, and tokens are taken in the order of the images, so that what a batch gets does not hang on the speed of threads:

    views    the file once more, decoded as far as pointing needs it    stage threads
    point    where to look; these two only where a look is pointed      the device
    rows     the file with all its pixels, cropped and prepared         stage threads
    read     the rows, by the scorer of the first looks                 the device; the next round begins meanwhile

Whatever fails on the way makes the image wait or fail as at the first look: nothing is concluded from the first alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from models.crops.cutting import region_of
from models.types import Pointed, Prepared, Reading
from scanfleet.checks.crop_result import CAP, CropResult
from scanfleet.errors import Retryable
from scanfleet.stats.stage_times import SKIPPED
from worker.batch.crop_stages import CropStages
from worker.batch.events import Answered, CropRead, DueCrop, Stepped
from worker.batch.stages import Around
from worker.scoring.crop import CropSetup
from worker.scoring.crop_gate import Allowance, Resized, crop_reason, order, shrink_of

ROUND_IMAGES = 8
GUESS = 4  # times the tokens of a first look, that a second one may take: until the first of a batch says


class CropPass:
    """Every method is called by the coordinator of the batch."""

    def __init__(self, around: Around, crop_setup: CropSetup, allowance: Allowance) -> None:
        self._around = around
        self._crop_pass = crop_setup
        self._allowance = allowance
        self._steps = CropStages(around, crop_setup.crop_reader)
        self.files = self._steps.files
        self._due: list[DueCrop] = []  # and not yet begun
        self._ended: list[Answered] = []
        self._stepping: list[DueCrop] = []
        self._open = 0  # answers that the step of this round waits for
        self._then: Callable[[Sequence[DueCrop]], None] = self._read
        self._dearest = 0  # tokens of a second look so far
        self._cheapest = 0  # likewise; 0: none so far
        self.n_held = 0  # images that are neither concluded nor given back

    def takes(self, answered: Answered) -> bool:
        """Whether an image that was answered at its first look gets another one; it is given back by `take_ended`."""
        twins, reading, prepared = answered.twins, answered.result, answered.twins.prepared
        why = None
        if isinstance(reading, Reading):
            self._allowance.earn(reading.visual_tokens)
            if math.isfinite(reading.margin):
                shrink = shrink_of((answered.width, answered.height), cast("Resized", prepared))
                why = crop_reason(self._crop_pass.settings, reading, self._crop_pass.band, shrink=shrink)
        if why is None:
            self.files.drop(twins.sha256)
            return False
        if self._around.resolved.boxes is None:
            twins.prepared = None
        self._due.append(DueCrop(first=answered, why=why))
        self.n_held += 1
        return True

    def go_on(self) -> None:
        """Begin the next round if none goes on. Not before all first looks of the batch are answered."""
        self._due.sort(key=lambda due: order(due.reading, self._crop_pass.band, due.twins.sha256))
        while self._due and not self._open:
            n = self._affordable()
            if not n:
                for due in self._due:
                    self._skip(due, CAP)
                self._due = []
                return
            begun, self._due = self._due[:n], self._due[n:]
            if self._crop_pass.crop_reader.pointed:
                self._each(begun, self._steps.view, self._point)
            else:
                self._each(begun, self._steps.make_rows, self._read)

    def take_ended(self) -> list[Answered]:
        """Images with all their looks, or with what became of the second one."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        self.files.close()

    def handle(self, event: Stepped | CropRead) -> None:
        if isinstance(event, CropRead):
            self._conclude(event)
            return
        event.due.step = event.result
        self._open -= 1
        if not self._open:
            self._then(self._stepping)

    # the steps

    def _affordable(self) -> int:
        """How many images the next round has; 0: not even the cheapest look that was seen fits into what is left."""
        left = self._allowance.left
        if left <= 0 or left < self._cheapest:
            return 0
        each = self._dearest or GUESS * self._due[0].reading.visual_tokens
        return ROUND_IMAGES if left >= ROUND_IMAGES * each else max(1, int(left // each))

    def _each(
        self, dues: Sequence[DueCrop], work: Callable[[DueCrop], None], then: Callable[[Sequence[DueCrop]], None]
    ) -> None:
        """Have `work` done for each in the stage threads; when all have told their result, `then`."""
        self._open, self._stepping, self._then = len(dues), list(dues), then
        for due in dues:
            self._around.stages.threads.submit(work, due)

    def _going_well(self, dues: Sequence[DueCrop]) -> list[DueCrop]:
        """Those whose step did not fail; the others are at their end."""
        well = []
        for due in dues:
            if isinstance(due.step, Exception):
                self._end(replace(due.first, result=due.step), due)
            else:
                well.append(due)
        return well

    def _point(self, dues: Sequence[DueCrop]) -> None:
        begun = []
        for due in self._going_well(dues):
            if not self._allowance.take(due.step.visual_tokens):
                self._skip(due, CAP)
                continue
            due.tokens = due.step.visual_tokens
            begun.append(due)
        self._each(begun, self._steps.submit_views, self._crop)

    def _crop(self, dues: Sequence[DueCrop]) -> None:
        found = []
        for due in self._going_well(dues):
            pointed: Pointed = due.step
            self._allowance.correct(pointed.tokens - due.tokens)
            self._around.watch.add(again_tokens=pointed.tokens)
            due.tokens, due.pointed = pointed.tokens, pointed
            if pointed.corners is None:
                self._skip(due, pointed.why_not)
            else:
                found.append(due)
        self._each(found, self._steps.make_rows, self._read)

    def _read(self, dues: Sequence[DueCrop]) -> None:
        for due in self._going_well(dues):
            rows: Sequence[Prepared] = due.step
            if not rows:
                self._skip(due, "enough")
                continue
            cost = sum(row.visual_tokens for row in rows)
            self._dearest = max(self._dearest, due.tokens + cost)
            self._cheapest = min(self._cheapest or cost, cost)
            if not self._allowance.take(cost):
                self._skip(due, CAP)
                continue
            due.tokens += cost
            due.n_rows = len(rows)
            self._around.stages.threads.submit(self._steps.submit_rows, due)

    # what comes of it

    def _conclude(self, event: CropRead) -> None:
        due, answers = event.due, event.answers
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if failed:
            away = next((error for error in failed if isinstance(error, Retryable)), failed[0])
            self._end(replace(due.first, result=away), due)
            return
        second = [answer for answer in answers if isinstance(answer, Reading)]
        broken = next((reading for reading in second if not math.isfinite(reading.margin)), None)
        if broken is not None:
            self._end(replace(due.first, result=broken), due)
            return
        self._around.watch.add(again=1)
        looked = self._told(due, second=max(reading.margin for reading in second))
        self._end(replace(due.first, result=self._crop_pass.crop_reader.fuse(due.reading, second), crop=looked), due)

    def _skip(self, due: DueCrop, why: str) -> None:
        self._around.watch.add(**{SKIPPED[why]: 1})
        self._end(replace(due.first, crop=self._told(due, skipped=why)), due)

    def _told(self, due: DueCrop, *, second: float | None = None, skipped: str | None = None) -> CropResult:
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
            look=self._crop_pass.settings.look,
            method=self._crop_pass.method,
        )

    def _end(self, answered: Answered, due: DueCrop) -> None:
        due.step = None
        if answered.crop is None:  # it failed on the way
            self._allowance.postpone(first=due.reading.visual_tokens, granted=due.tokens)
        self.files.drop(due.twins.sha256)
        self.n_held -= 1
        self._ended.append(answered)
