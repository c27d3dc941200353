"""Which scans of a pass a batch's images can be read for, and the scorer that reads them for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast
from weakref import WeakValueDictionary

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import reading
from scanfleet.db.results.answers import answers_by_identity
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.db.scans.passes import Sibling, siblings
from scanfleet.models.types import Scorer
from scanfleet.worker.batch.passes.readings import PassReadings
from scanfleet.worker.batch.passes.scorer import PassScorer
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()

AGAIN_SECONDS = 60.0  # between two tries of a check whose scorer could not be made


class Passes:
    """Finds the siblings of batches, for any thread."""

    def __init__(self, engine: sa.Engine, model: Model, scorers: ScorerCache, *, name: str) -> None:
        """name: of the model, as scans have it."""
        self._engine = engine
        self._model = model
        self._scorers = scorers
        self._name = name
        self._lock = threading.Lock()  # of what follows
        self._made: WeakValueDictionary[tuple[int, ...], PassScorer] = WeakValueDictionary()  # by ids of scorers
        self._put_off: dict[int, float] = {}  # by check: time.monotonic()

    def join(
        self, resolved: Resolved, claim: Claim, images: Sequence[ClaimedImage], readings: PassReadings
    ) -> Resolved:
        """Return the scorer with the questions of the siblings that wait for these images, if there are any.

        `readings` gets the siblings' batches, also of those that read the images by themselves: their notifications may
        have come while this batch kept them from being claimed. Raises DatabaseUnavailable.
        """
        if claim.pass_id is None or claim.suspect or not images or not _shares(resolved):
            return resolved
        waiting = [sibling for sibling in self._waiting(claim, images) if readings.awaits(sibling.batches)]
        found = {sibling: other for sibling in waiting if (other := self._scorer_of(sibling)) is not None}
        readings.follow(batch for sibling in found for batch in sibling.batches)
        alike = [other for other in dict.fromkeys(found.values()) if _shares(other) and _size(other) == _size(resolved)]
        asked = [other for other in alike if other is not resolved and self._must_read(other, images, readings)]
        scorer = self._together(resolved, asked) if asked else None
        return resolved if scorer is None else replace(resolved, scorer=cast("Scorer", scorer))

    def _waiting(self, claim: Claim, images: Sequence[ClaimedImage]) -> list[Sibling]:
        assert claim.pass_id is not None
        identities = [image.identity for image in images]
        with reading(self._engine) as connection:
            return siblings(
                connection, pass_id=claim.pass_id, scan_id=claim.scan_id, model=self._name, identities=identities
            )

    def _must_read(self, other: Resolved, images: Sequence[ClaimedImage], readings: PassReadings) -> bool:
        """Return whether a scorer has not yet answered for some of these images."""
        with reading(self._engine) as connection:
            identities, explained = [image.identity for image in images], other.explain is not None
            known = answers_by_identity(connection, other.scorer_id, identities, explained=explained)
        return any(
            (image.etag is None or image.identity not in known) and readings.find(other, image) is None
            for image in images
        )

    def _scorer_of(self, sibling: Sibling) -> Resolved | None:
        """Return the scorer of a sibling; None if it cannot be made now."""
        with self._lock:
            if time.monotonic() < self._put_off.get(sibling.check_id, 0.0):
                return None
        try:
            return self._scorers.resolve(sibling.check_id, begun_at=sibling.created_at)
        except Exception as error:  # noqa: BLE001 - it is that scan's error, and must not hold up this one
            log.warning("sibling_left_out", scan=sibling.scan_id, error=f"{type(error).__name__}: {error}")
            with self._lock:
                self._put_off[sibling.check_id] = time.monotonic() + AGAIN_SECONDS
            return None

    def _together(self, first: Resolved, others: Sequence[Resolved]) -> PassScorer | None:
        """Return the same scorer for the same questions, so that the images of several batches share forwards."""
        scorers = [first.scorer, *(each.scorer for each in others)]
        key = tuple(map(id, scorers))
        with self._lock:
            made = self._made.get(key)
            if made is None and (together := self._model.together(scorers)) is not None:
                made = self._made[key] = PassScorer(first.scorer, others, together)
            return made


def _shares(resolved: Resolved) -> bool:
    """Return whether an image is read once, as a whole, and by one question."""
    return resolved.crop_setup is None and resolved.boxes is None and not resolved.scorer.question.steps


def _size(resolved: Resolved) -> object:
    """Return what decides how an image is decoded and resized, by the adapter's settings as well."""
    question = resolved.scorer.question
    return question.max_pixels, question.min_pixels, resolved.scorer.detail, resolved.frames
