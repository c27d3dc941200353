"""What the stage threads of one batch need, whatever they do for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from worker.batch_events import Event
from worker.scorers import Resolved
from worker.stages import Stages
from worker.timing import Stopwatch
from worker.vitals import BatchPulse

RETRY_SECONDS = 30.0  # after the deadline of a fetch, for the store's client to give up


@dataclass(frozen=True, kw_only=True, eq=False)
class Around:
    """tell: from any thread, to its coordinator. over: it wants nothing more. owner: of its tickets at the device."""

    resolved: Resolved
    stages: Stages
    watch: Stopwatch
    pulse: BatchPulse
    over: threading.Event
    owner: object
    tell: Callable[[Event], None]
