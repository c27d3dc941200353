"""A scorer that asks the questions of several scans in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from PIL import Image

from scanfleet.models.types import Detail, ModelIdentity, Prepared, Question, Reading, Resized, Scorer, SeveralScorer
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory
from scanfleet.worker.scoring.factory import Resolved

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class PassReading(Reading):
    """A reading, with those of the other questions about the same image, in their order."""

    others: tuple[Reading, ...] = ()


class PassScorer:
    """Scores as `first` does, and gives each reading those of `others` along.

    An error of the questions together is not the first one's: it is then asked alone, and the others are left to their
    own scans.
    """

    def __init__(self, first: Scorer, others: Sequence[Resolved], together: SeveralScorer) -> None:
        self.others = tuple(others)
        self._first = first
        self._together = together
        self._apart = False

    @property
    def question(self) -> Question:
        return self._first.question

    @property
    def identity(self) -> ModelIdentity:
        return self._first.identity

    @property
    def detail(self) -> Detail | None:
        return self._first.detail

    def prepare(self, image: Image.Image | Resized) -> Prepared:
        return self._first.prepare(image)

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        if self._apart:
            return self._first.score(prepared)
        try:
            first, *others = self._together.score(prepared)
        except DeviceBroken:
            raise
        except OutOfDeviceMemory:
            if len(prepared) > 1:  # fewer images may fit
                raise
            return self._first.score(prepared)
        except Exception as error:  # noqa: BLE001 - of whichever question: each scan meets its own when it is asked alone
            log.warning("pass_failed", check=self.question.name, error=f"{type(error).__name__}: {error}")
            self._apart = True
            return self._first.score(prepared)
        return [_along(reading, tuple(each[number] for each in others)) for number, reading in enumerate(first)]


def _along(reading: Reading, others: tuple[Reading, ...]) -> PassReading:
    return PassReading(**{**vars(reading), "others": others})
