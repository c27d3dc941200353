"""What reaches the coordinator of a batch from the threads of its stages, and the images that share an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.types import FoundBoxes, Prepared, Reading
from scanfleet.store.batches import ClaimedImage
from worker.boxes import NOT_ASKED, StoredBoxes


@dataclass(kw_only=True, eq=False)
class Twins:
    """Images of one batch with the same bytes: scored once."""

    sha256: str
    images: list[ClaimedImage]
    prepared: Prepared | None = None  # kept where boxes may be asked for, until that is known
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


@dataclass(frozen=True, kw_only=True)
class Located:
    """Somebody was asked where in a flagged image."""

    scored: Answered
    result: FoundBoxes | Exception


@dataclass(frozen=True, kw_only=True)
class Abort:
    why: str


Event = Fetched | NotFetched | Answered | Located | Abort
