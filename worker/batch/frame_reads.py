"""The pictures of one file in the first pass: a row of the device for each, and the one that answers for the file."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scanfleet.checks.frame_result import FrameResult
from scanfleet.errors import Retryable
from scanfleet.images import Frame
from scanfleet.models.types import Prepared, Reading
from scanfleet.worker.batch.events import Duplicates, ImageResult


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """One picture, ready for the device. frame: None for the only picture of a file."""

    prepared: Prepared
    width: int  # pixels, upright
    height: int
    frame: Frame | None
    notes: tuple[str, ...]


class FrameReads:
    """Collects the readings of a file's rows, from any device thread.

    n_frames: pictures of the file, read or not. keep_prepared: the chosen picture is needed for boxes or a crop.
    """

    def __init__(self, duplicates: Duplicates, rows: Sequence[FrameRow], *, n_frames: int, keep_prepared: bool) -> None:
        self.rows = rows
        self._duplicates = duplicates
        self._n_frames = n_frames
        self._keep_prepared = keep_prepared
        self._lock = threading.Lock()
        self._answers: dict[int, Reading | Exception] = {}  # by row

    def add(self, number: int, answer: Reading | Exception) -> ImageResult | None:
        """Return the result of the file after its last row, None before."""
        with self._lock:
            self._answers[number] = answer
            if len(self._answers) < len(self.rows):
                return None
        return self._result([self._answers[at] for at in range(len(self.rows))])

    def _result(self, answers: Sequence[Reading | Exception]) -> ImageResult:
        """An error of any picture is that of the file: the others alone never decide."""
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors:
            error = next((error for error in errors if isinstance(error, Retryable)), errors[0])
            return ImageResult(duplicates=self._duplicates, result=error)
        readings = [answer for answer in answers if isinstance(answer, Reading)]
        chosen = _highest([reading.margin for reading in readings])
        row, reading = self.rows[chosen], readings[chosen]
        if len(readings) > 1:
            tokens = sum(each.visual_tokens for each in readings)
            unlike = max((each.unlike for each in readings if each.unlike is not None), default=None)
            reading = replace(
                reading,
                mass=min(each.mass for each in readings),
                visual_tokens=tokens,
                unlike=unlike,
                is_unlike=any(each.is_unlike for each in readings),
            )
        if self._keep_prepared:
            self._duplicates.prepared = row.prepared
        return ImageResult(
            duplicates=self._duplicates,
            result=reading,
            width=row.width,
            height=row.height,
            frames=self._frames(row, [each.margin for at, each in enumerate(readings) if at != chosen]),
            notes=row.notes,
        )

    def _frames(self, row: FrameRow, others: Sequence[float]) -> FrameResult | None:
        if row.frame is None:
            return None
        return FrameResult(
            n_frames=self._n_frames,
            n_scored=len(self.rows),
            frame=row.frame.number,
            seconds=row.frame.seconds,
            next_margin=max(others, default=None),
        )


def _highest(margins: Sequence[float]) -> int:
    """Return the place of the highest margin, the first of equal ones; a margin that is no number comes before all."""
    broken = next((at for at, margin in enumerate(margins) if not math.isfinite(margin)), None)
    return max(range(len(margins)), key=margins.__getitem__) if broken is None else broken
