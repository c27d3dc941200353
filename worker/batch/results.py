"""The results of an attempt at a batch: every image ends as a verdict or as a failure, or it waits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

import structlog

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.explanation import Explanation
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.results.answers import Answer, NewVerdict
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import DeviceUnavailable, ImageError, ObjectRefused, Retryable, StoreUnavailable
from scanfleet.models.types import Reading
from scanfleet.redaction import storable
from scanfleet.stats.counts import MASS_FLOOR
from scanfleet.worker.batch.timing import Stopwatch
from scanfleet.worker.scoring.boxes import NOT_ASKED, StoredBoxes
from scanfleet.worker.scoring.decisions import Policy
from scanfleet.worker.scoring.factory import Resolved

log = structlog.get_logger()


MISSING = ("gone", "changed")


class BatchResults:
    """Only the coordinator of the batch fills it."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._scorer_id = resolved.scorer_id
        self._policy: Policy = resolved.policy
        self._verdicts: list[NewVerdict] = []
        self._failures: dict[int, ImageError] = {}
        self._missing: dict[int, tuple[ClaimedImage, ImageError]] = {}  # not yet confirmed (refused_objects)
        self._refused: dict[int, tuple[ClaimedImage, ObjectRefused]] = {}
        self._versions: dict[int, str] = {}  # etags of images that were listed without one
        self._sizes: dict[int, int] = {}  # bytes of these images: a manifest that names no version names no size
        self._waiting_for: str | None = None
        self._n_waiting = 0
        self._n_store_away = 0  # of n_waiting
        self._n_fetched = 0  # images that the store delivered, or rejected
        self._store_answers = False
        self._n_scored = 0
        self._n_low_mass = 0

    @property
    def resolved(self) -> Resolved:
        return self._resolved

    def empty_copy(self) -> BatchResults:
        """Return empty results for other images of the same batch."""
        return BatchResults(self._resolved)

    def is_blocked(self, *, patience: int) -> bool:
        """Return True if `patience` images met a transient error, and the store answered for none."""
        return self._n_waiting >= patience and not self._n_fetched

    @property
    def device_error(self) -> str | None:
        """The error for which images wait although the store delivered them."""
        return self._waiting_for if self._n_waiting > self._n_store_away else None

    @property
    def n_scored(self) -> int:
        """The number of images that the model has answered."""
        return self._n_scored

    @property
    def n_fetched(self) -> int:
        """The number of images that the store delivered, or whose failure it has told."""
        return self._n_fetched

    def count_fetched(self, image: ClaimedImage, etag: str | None, *, size: int) -> None:
        """etag: of the version that was read. Of an image that has none, later attempts read that version or fail.

        size: its bytes.
        """
        self._n_fetched += 1
        if image.pin is None and etag is not None:
            self._versions[image.id] = etag
            self._sizes[image.id] = size

    def version_of(self, image: ClaimedImage) -> str | None:
        """Return the etag of the version that was read; None: the store has none."""
        return image.pin or self._versions.get(image.id)

    @property
    def missing(self) -> list[ClaimedImage]:
        """The images that the store called gone or changed, not yet confirmed."""
        return [image for image, _ in self._missing.values()]

    @property
    def refused(self) -> list[ClaimedImage]:
        """The images that wait because the store refuses their objects."""
        return [image for image, _ in self._refused.values()]

    @property
    def refusals(self) -> list[tuple[ClaimedImage, ImageError]]:
        """The same images, with the failures that they may become."""
        return [(image, error.failure) for image, error in self._refused.values()]

    def confirm_missing(self) -> None:
        """Missing images are failures."""
        for image, error in self._missing.values():
            self._fail(image.id, error)
        self._missing = {}

    def doubt_missing(self, error: StoreUnavailable) -> None:
        """Missing images wait, as refused ones do."""
        for image, failure in self._missing.values():
            self._refused[image.id] = (image, ObjectRefused(str(error), failure))
        self._missing = {}

    def note_store_answers(self) -> None:
        """The store delivers other images of the scan: it is available, whatever it refuses of this batch."""
        self._store_answers = True

    def take_refused(self, images: Iterable[ClaimedImage]) -> list[ClaimedImage]:
        """Forget that these images were refused: they are tried once more."""
        return [self._refused.pop(image.id)[0] for image in images]

    def accept_refusals(self, image_ids: Collection[int]) -> None:
        """The refused or missing ones of these images are failures: others are delivered."""
        self.confirm_missing()
        for image_id in [each for each in self._refused if each in image_ids]:
            self._fail(image_id, self._refused.pop(image_id)[1].failure)

    def _fail(self, image_id: int, error: ImageError) -> None:
        self._n_fetched += error.stage == "fetch"  # the store is available
        self._failures[image_id] = ImageError(stage=error.stage, reason=error.reason, detail=storable(error.detail))

    def add_earlier(self, image: ClaimedImage, earlier: Answer) -> None:
        """Reuse the answer of the same scorer for the same bytes or the same listed version."""
        self._verdicts.append(NewVerdict.reuse(earlier, image_id=image.id, identity=image.identity))

    def add_reading(
        self,
        image: ClaimedImage,
        reading: Reading,
        *,
        sha256: str,
        width: int,
        height: int,
        boxes: StoredBoxes = NOT_ASKED,
        crop: CropResult | None = None,
        frames: FrameResult | None = None,
        notes: tuple[str, ...] = (),
        explanation: Explanation | None = None,
    ) -> None:
        """crop: the outcome of the crop pass where it was due; the reading is that of both passes then.

        frames: of a file with several pictures; the reading is that of the chosen one. notes: what decoding chose.
        """
        if not math.isfinite(reading.margin):
            # Overflow in a low precision, or broken weights: no answer, and not counted against the image.
            self.add_error(image, DeviceUnavailable("the model's answer is not a number: check precision and adapter"))
            return
        self._n_scored += 1
        decision = self._policy.after(crop).decide(reading, complete=crop is None or crop.complete, frames=frames)
        self._n_low_mass += reading.mass < MASS_FLOOR
        verdict = NewVerdict(
            image_id=image.id,
            identity=image.identity,
            content_sha256=sha256,
            width=width,
            height=height,
            label=decision.label,
            decision=decision.decision,
            score=decision.score,
            margin=reading.margin,
            mass=reading.mass,
            logits=reading.logits,
            boxes=boxes.boxes,
            box_problems=tuple(map(storable, boxes.problems)),
            crop=crop,
            frames=None if frames is None else replace(frames, reason=decision.reason),
            notes=tuple(map(storable, notes)),
            explanation=explanation,
            unlike=reading.unlike,
            doubted=decision.doubted,
        )
        self._verdicts.append(verdict)

    def add_error(self, image: ClaimedImage, error: Exception) -> None:
        """Only an ImageError is a failure of the image. Every other error, a bug included, makes it wait."""
        if isinstance(error, ImageError) and error.stage == "fetch" and error.reason in MISSING:
            self._missing[image.id] = (image, error)
            return
        if isinstance(error, ImageError):
            self._fail(image.id, error)
            return
        if isinstance(error, ObjectRefused):
            self._refused[image.id] = (image, error)
            return
        self._n_waiting += 1
        self._n_store_away += isinstance(error, StoreUnavailable)
        if isinstance(error, Retryable):
            self._waiting_for = storable(str(error))
            return
        log.error("image_attempt_crashed", image=image.id, uri=image.uri, exc_info=error)
        self._waiting_for = f"unexpected {type(error).__name__} (see the worker's log): {storable(str(error))[:200]}"

    def outcome(self, watch: Stopwatch) -> Outcome:
        if self._n_low_mass:
            # The model prefers other words than the labels: the prompt or the adapter is broken, or does not fit.
            log.warning("label_mass_low", scorer=self._scorer_id, images=self._n_low_mass, floor=MASS_FLOOR)
        doubtful = [str(error) for _, error in (*self._refused.values(), *self._missing.values())]
        n_fetched = self._n_fetched + self._store_answers
        waiting_for = self._waiting_for or (storable(doubtful[0]) if doubtful else None)
        return Outcome(
            scorer_id=self._scorer_id,
            scorer=self._resolved.ref,
            verdicts=self._verdicts,
            failures=self._failures,
            versions=self._versions,
            sizes=self._sizes,
            waiting_for=waiting_for,
            store_away=self._n_store_away + len(doubtful) > 0 and not n_fetched,
            n_fetched=n_fetched,
            seconds=watch.sums(),
        )
