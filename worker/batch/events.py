"""What reaches the coordinator of a batch from the threads of its stages, and the images that share an answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from models.types import FoundBoxes, Pointed, Prepared, Reading
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.scans.batches import ClaimedImage
from worker.scoring.boxes import NOT_ASKED, StoredBoxes


@dataclass(kw_only=True, eq=False)
class Twins:
    """Images of one batch with the same bytes: scored once."""

    sha256: str
    images: list[ClaimedImage]
    prepared: Prepared | None = None  # kept where boxes or a second look may be asked for, until that is known
    answer: Answered | None = None


@dataclass(frozen=True, kw_only=True)
class Fetched:
    image: ClaimedImage
    data: bytes = field(repr=False)
    sha256: str


@dataclass(frozen=True, kw_only=True)
class NotFetched:
    image: ClaimedImage
    error: Exception


@dataclass(frozen=True, kw_only=True)
class Answered:
    twins: Twins
    result: Reading | Exception
    width: int = 0  # pixels, upright
    height: int = 0
    boxes: StoredBoxes = NOT_ASKED
    crop: CropResult | None = None


@dataclass(kw_only=True, eq=False)
class DueCrop:
    """An image that is to be looked at again. step: what the step under way brought; tokens: what it cost so far."""

    first: Answered
    why: str
    step: Any = None
    pointed: Pointed | None = None
    tokens: int = 0
    n_rows: int = 0
    answers: dict[int, Reading | Exception] = field(default_factory=dict)  # by row
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def twins(self) -> Twins:
        return self.first.twins

    @property
    def reading(self) -> Reading:
        """Of the first look."""
        assert isinstance(self.first.result, Reading)
        return self.first.result

    def answered(self, row: int, result: Reading | Exception) -> bool:
        """Whether that was the last of its rows. From any device thread."""
        with self._lock:
            self.answers[row] = result
            return len(self.answers) == self.n_rows


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A step of a second look came to its end: what is looked through, where it is pointed, or its rows."""

    due: DueCrop
    result: Any  # or an Exception


@dataclass(frozen=True, kw_only=True)
class CropRead:
    """The rows of a second look were read, in whatever order."""

    due: DueCrop
    answers: tuple[Reading | Exception, ...]


@dataclass(frozen=True, kw_only=True)
class Located:
    """Somebody was asked where in a flagged image."""

    scored: Answered
    result: FoundBoxes | Exception


@dataclass(frozen=True, kw_only=True)
class Abort:
    why: str


Event = Fetched | NotFetched | Answered | Stepped | CropRead | Located | Abort
