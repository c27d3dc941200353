"""Where to look, for a check that asks for boxes: who is asked, and what becomes of the answer.

A second, generating pass over flagged images. It shares the device with scoring as work of its own
(`worker.device.queue`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.inputs.sources import POCKET
from models.types import Box, Finder, FoundBoxes, Question
from scanfleet.checks.check import Check
from worker.scoring.model import Model

UNTAUGHT = "the pocket model was not taught to write boxes: none were asked for"


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxPass:
    """finder None: nobody is asked, for the reason in `why_not`, which every flagged image's verdict repeats."""

    finder: Finder | None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredBoxes:
    """As the ledger holds them: corners in pixels of the image as it is in the store, upright."""

    boxes: tuple[dict[str, Any], ...] | None = None  # None: not asked for
    problems: tuple[str, ...] = ()


NOT_ASKED = StoredBoxes()


def box_pass_of(model: Model, check: Check, question: Question, adapter: Path | None) -> BoxPass | None:
    """Who finds the boxes of a check; None where it does not ask. Raises ModelInvalid, ModelUnavailable."""
    if not check.boxes or not question.flags:
        return None
    if model.identity.base_model == POCKET:
        return BoxPass(finder=None, why_not=UNTAUGHT)
    return BoxPass(finder=model.finder(question, adapter))


def stored(found: FoundBoxes, *, width: int, height: int) -> StoredBoxes:
    """Boxes of an image that was decoded smaller than it is, in its own pixels (`width` x `height`)."""
    across, down = width / found.size[0], height / found.size[1]
    return StoredBoxes(boxes=tuple(_grown(box, across, down) for box in found.boxes), problems=found.problems)


def _grown(box: Box, across: float, down: float) -> dict[str, Any]:
    corners = {
        "x0": round(box.x0 * across, 2),
        "y0": round(box.y0 * down, 2),
        "x1": round(box.x1 * across, 2),
        "y1": round(box.y1 * down, 2),
    }
    return asdict(box) | corners
