"""Which checks one pass over the images answers: those that read each image once, as a whole, at the same size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.checks.crop import NEVER
from scanfleet.config.endpoints import PREFIX


@dataclass(frozen=True, kw_only=True)
class PlannedPass:
    """Checks that share a pass. alone: why its only check can share with none; None: it could."""

    checks: tuple[Check, ...]
    alone: str | None = None

    def id(self, *about: Any) -> str | None:
        """Return what its scans share, the same whichever of the checks are among them; None: there is but one.

        about: sources, filters and all else that decides which images are read.
        """
        if len(self.checks) == 1:
            return None
        body = json.dumps([_size(self.checks[0]), *about], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()


def reads_alone(check: Check, *, model: str) -> str | None:
    """Return why a check reads every image by itself; None if others can read along."""
    if model.startswith(PREFIX):
        return "a model behind a server answers one question at a time"
    if check.crop != NEVER:
        return "it has a crop pass"
    if check.boxes:
        return "it asks for boxes"
    return "it has steps" if check.steps else None


def plan_passes(checks: Sequence[Check], *, model: str) -> list[PlannedPass]:
    """Return the passes that these checks take, in the order of their first checks."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        is_alone = reads_alone(check, model=model) is not None
        found.setdefault(check.hash if is_alone else json.dumps(_size(check)), []).append(check)
    return [PlannedPass(checks=tuple(each), alone=reads_alone(each[0], model=model)) for each in found.values()]


def _size(check: Check) -> list[Any]:
    """Return what decides how an image is decoded and resized."""
    return [check.max_pixels, check.min_pixels, check.frames.model_dump(mode="json")]
