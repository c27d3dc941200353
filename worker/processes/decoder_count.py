"""How many decoders a worker has: one more while the device waits for pictures, one fewer while it does not."""

from __future__ import annotations

import structlog

from scanfleet.decoding.pool import Decoders
from scanfleet.worker.runtime.utilisation import Occupancy, Span

log = structlog.get_logger()

CHECK_SECONDS = 0.5
FIRST = 2  # decoders, before anything is measured
HUNGRY = 0.05  # of the time that the device had nothing to do: one more decoder
CALM_CHECKS = 120  # without such a time, and one decoder is left out


class DecoderCount:
    """Call `check` again and again. Never more decoders than there are cores or stage threads."""

    def __init__(self, decoders: Decoders, occupancy: Occupancy) -> None:
        self._decoders = decoders
        self._occupancy = occupancy
        self._before = occupancy.so_far()
        self._n_calm = 0
        decoders.seats.allow(min(FIRST, decoders.most_children))

    def check(self) -> None:
        """Compare the time since the last check. Nothing is learnt from a time without batches."""
        now, before = self._occupancy.so_far(), self._before
        self._before = now
        lacked = self._decoders.seats.take_lack()
        passed = Span(under_way=now.under_way - before.under_way, idle=now.idle - before.idle)
        if passed.under_way <= 0:
            return
        hungry = passed.idle > HUNGRY * passed.under_way
        self._n_calm = 0 if hungry else self._n_calm + 1
        if hungry and lacked:
            self._allow(self._decoders.seats.n + 1)
        elif self._n_calm >= CALM_CHECKS:
            self._n_calm = 0
            self._allow(self._decoders.seats.n - 1)

    def _allow(self, n: int) -> None:
        if not 1 <= n <= self._decoders.most_children:
            return
        self._decoders.seats.allow(n)
        log.debug("decoders_allowed", n=n)
