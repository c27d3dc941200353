"""The events that stage threads and the device send to the coordinator of a batch, and the images they are about."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.explanation import Explanation
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.models.types import FoundBoxes, Pointed, Prepared, Reading, Written
from scanfleet.worker.scoring.boxes import NOT_ASKED, StoredBoxes


@dataclass(kw_only=True, eq=False)
class Duplicates:
    """Images of one batch with the same bytes, which are scored once. Most have one image."""

    sha256: str
    size: int  # bytes
    images: list[ClaimedImage]
    prepared: Prepared | None = None  # kept as long as boxes, an explanation or a crop pass may be due
    answer: ImageResult | None = None


@dataclass(frozen=True, kw_only=True)
class Fetched:
    image: ClaimedImage
    data: bytes = field(repr=False)
    etag: str | None  # of the version that was read
    sha256: str


@dataclass(frozen=True, kw_only=True)
class NotFetched:
    image: ClaimedImage
    error: Exception


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """The model's reading of an image after the first pass, then after the crop pass, then with boxes and explanation.

    frames: the pictures of a file that holds several; all else is about the chosen one. notes: what decoding chose.
    """

    duplicates: Duplicates
    result: Reading | Exception
    width: int = 0  # pixels, upright
    height: int = 0
    boxes: StoredBoxes = NOT_ASKED
    explanation: Explanation | None = None
    crop: CropResult | None = None
    frames: FrameResult | None = None
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False)
class DueCrop:
    """An image that is due for the crop pass.

    step: the result of its latest step. tokens: visual tokens spent on it so far.
    """

    first: ImageResult
    why: str
    step: Any = None
    pointed: Pointed | None = None
    tokens: int = 0
    n_rows: int = 0
    answers: dict[int, Reading | Exception] = field(default_factory=dict)  # by row
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def duplicates(self) -> Duplicates:
        return self.first.duplicates

    @property
    def reading(self) -> Reading:
        """The reading of the first pass."""
        assert isinstance(self.first.result, Reading)
        return self.first.result

    def add_answer(self, row: int, result: Reading | Exception) -> bool:
        """Return True if this was the last row to be answered. Called from any device thread."""
        with self._lock:
            self.answers[row] = result
            return len(self.answers) == self.n_rows


@dataclass(frozen=True, kw_only=True)
class CropStepDone:
    """A step of the crop pass has ended. result: the views, where they point, the rows, or an Exception."""

    due: DueCrop
    result: Any


@dataclass(frozen=True, kw_only=True)
class CropRead:
    """All rows of an image in the crop pass are answered, in any order."""

    due: DueCrop
    answers: tuple[Reading | Exception, ...]


@dataclass(frozen=True, kw_only=True)
class Located:
    """The finder has answered for a flagged image."""

    scored: ImageResult
    result: FoundBoxes | Exception


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The explainer has answered for a flagged image."""

    scored: ImageResult
    result: Written | Exception


@dataclass(frozen=True, kw_only=True)
class Abort:
    reason: str


Event = Fetched | NotFetched | ImageResult | CropStepDone | CropRead | Located | Explained | Abort
