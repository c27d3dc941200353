"""What the browser is told of an image under review."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.results.results import Result
from scanfleet.serve.uploads import shown
from scanfleet.serve.v1.answers import caveats_of


def item(result: Result, check: Check, settings: Settings, *, hidden: bool) -> dict[str, Any]:
    """Return an image as JSON. hidden: without the answer, so that it sways nobody."""
    about = {
        "image_id": result.image_id,
        "content": result.content_sha256,
        "uri": shown(result.uri, settings),
        "scan": result.scan,
        "width": result.width,
        "height": result.height,
        "picture": f"/thumbs/{result.image_id}/1280?of={(result.content_sha256 or '')[:16]}",
    }
    if hidden:
        return about
    return about | {
        "label": result.label,
        "decision": result.decision,
        "score": result.score if result.calibrated else None,
        "margin": result.margin,
        "boxes": result.boxes or [],
        "crop": None if result.crop is None else asdict(result.crop),
        "adapter": None if result.scorer is None else result.scorer.adapter_id,
        "explanation": None if result.explanation is None else result.explanation.text,
        "doubts": [*(result.notes or ()), *caveats_of(result)],
        "wrong": opposite(check, result.label),
    }


def opposite(check: Check, label: str | None) -> str | None:
    """Return the label that "wrong" means: the only one on the other side of a flag; None: a person must choose."""
    others = [each for each in check.labels if (each in check.flags) != (label in check.flags)]
    return others[0] if len(others) == 1 else None
