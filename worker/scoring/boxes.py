"""Boxes around the reason for a flag, for checks that ask for them.

They come from a separate, generating pass over flagged images, which shares the device with scoring as its own kind of
work (`worker.device.queue`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.models.inputs.sources import POCKET
from scanfleet.models.types import Box, Finder, FoundBoxes, Question
from scanfleet.worker.scoring.model import Model

UNTAUGHT = "the pocket model cannot write boxes: none were requested"


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxPass:
    """What finds boxes. finder None: nothing, for the reason in `why_not`, which a flagged image's verdict repeats."""

    finder: Finder | None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredBoxes:
    """Boxes as the database holds them: corners in pixels of the stored image, upright."""

    boxes: tuple[dict[str, Any], ...] | None = None  # None: not asked for
    problems: tuple[str, ...] = ()


NOT_ASKED = StoredBoxes()


def box_pass_of(model: Model, check: Check, question: Question, adapter: Path | None) -> BoxPass | None:
    """Return what finds the boxes of a check; None if it asks for none. Raises ModelInvalid, ModelUnavailable."""
    if not check.boxes or not question.flags:
        return None
    if model.identity.base_model == POCKET:
        return BoxPass(finder=None, why_not=UNTAUGHT)
    return BoxPass(finder=model.finder(question, adapter))


def stored(found: FoundBoxes, *, width: int, height: int) -> StoredBoxes:
    """Scale boxes of an image that was decoded smaller than it is to its own pixels (`width` x `height`)."""
    across, down = width / found.size[0], height / found.size[1]
    return StoredBoxes(boxes=tuple(_scaled(box, across, down) for box in found.boxes), problems=found.problems)


def _scaled(box: Box, across: float, down: float) -> dict[str, Any]:
    corners = {
        "x0": round(box.x0 * across, 2),
        "y0": round(box.y0 * down, 2),
        "x1": round(box.x1 * across, 2),
        "y1": round(box.y1 * down, 2),
    }
    return asdict(box) | corners
