"""The stages of a training in their order. `promote` comes after them: it writes no result but the ledger's."""

from __future__ import annotations

from worker.refresh.comparing import compare
from worker.refresh.context import Stage
from worker.refresh.fitting import calibrate, canary, fit
from worker.refresh.labels import images, snapshot
from worker.refresh.publishing import publish

STAGES: tuple[tuple[str, Stage], ...] = (
    ("snapshot", snapshot),
    ("images", images),
    ("fit", fit),
    ("calibrate", calibrate),
    ("canary", canary),
    ("publish", publish),
    ("compare", compare),
)
