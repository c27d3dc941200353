"""The frames of a check: how many pictures of one file are scored, and which."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from scanfleet.images.types import FrameChoice, Pick

MAX_FRAMES = 64


class FrameSettings(BaseModel):
    """`[frames]` of a check file.

    max: the most frames of one file that are scored.
    pick: "mixed": the first, the last, some evenly spaced, and those that differ most from the frame before;
        "even": evenly spaced, from first to last; "first": the first ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max: int = Field(default=8, ge=1, le=MAX_FRAMES)
    pick: Pick = "mixed"

    def choice(self) -> FrameChoice:
        """Return what a decoder needs to know of these settings."""
        return FrameChoice(self.max, self.pick)


DEFAULT_FRAMES = FrameSettings()
