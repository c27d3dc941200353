"""The answer for one image that was scored at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One image, as a line of `scanfleet score --json`.

    state: "verdict" or "failed". decision: "clear", "review" or "flag". score: calibrated probability of a flag; None
    where `calibrated` is False. margin: logits. boxes: x0, y0, x1, y1 in pixels, label and score; None: not asked for.
    failure: stage, reason, detail.
    """

    uri: str
    state: str
    label: str | None
    decision: str | None
    score: float | None
    calibrated: bool
    margin: float | None
    mass: float | None
    boxes: list[dict[str, Any]] | None
    box_problems: list[str] | None
    crop: dict[str, Any] | None
    frames: dict[str, Any] | None
    notes: list[str] | None
    content_sha256: str | None
    width: int | None
    height: int | None
    scorer: dict[str, Any] | None
    failure: dict[str, str] | None

    @classmethod
    def read(cls, record: dict[str, Any]) -> Scored:
        """Fields of later releases are left out."""
        return cls(**{each.name: record[each.name] for each in fields(cls)})
