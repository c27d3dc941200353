"""The pictures of a file that holds several, as the ledger holds them beside a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

UNREAD = "frames"  # it would be clear, but other pictures of the file were not read, or only without a crop


@dataclass(frozen=True, kw_only=True)
class FrameResult:
    """n_frames: pictures of the file. n_scored: of these, those that the model read.

    frame: the one with the answer, from 0. seconds: its time since the first one; None for pages. next_margin: the
    highest of the other scored pictures, in logits. reason: UNREAD if that made the decision a review.
    """

    n_frames: int
    n_scored: int
    frame: int
    seconds: float | None = None
    next_margin: float | None = None
    reason: str | None = None

    @property
    def complete(self) -> bool:
        """True if the model read all pictures of the file."""
        return self.n_scored >= self.n_frames

    @property
    def calibrated(self) -> bool:
        """True unless the answer is the highest margin of several: no calibration was made with that rule."""
        return self.n_scored <= 1

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, held: Mapping[str, Any] | None) -> FrameResult | None:
        """Read the values written by `record`."""
        return None if held is None else cls(**held)


def frame_in_words(frames: FrameResult) -> str:
    """Name the picture with the answer, counted from 1.

    >>> frame_in_words(FrameResult(n_frames=12, n_scored=8, frame=3, seconds=1.3))
    'frame 4 of 12, 1.3 s'
    """
    time = "" if frames.seconds is None else f", {frames.seconds:.1f} s"
    return f"frame {frames.frame + 1} of {frames.n_frames}{time}"
