"""How long the batches of a killed worker lie until somebody has them again."""

from __future__ import annotations

import time

import sqlalchemy as sa

from scanfleet.errors import DatabaseUnavailable
from scanfleet.store.engine import reading
from scanfleet.store.tables import Batch


class Recovery:
    """seconds: of every recovered batch, from the kill to its next claim."""

    def __init__(self, engine: sa.Engine) -> None:
        self.seconds: list[float] = []
        self._engine = engine
        self._waiting: dict[int, tuple[int, float]] = {}  # batch -> (token it was held under, time of the kill)

    def killed(self, pid: int) -> None:
        """Call right after the kill: remembers what that process held."""
        held = sa.select(Batch.id, Batch.lease_token).where(
            Batch.state == "leased", Batch.lease_owner.contains(f"-{pid}-", autoescape=True)
        )
        for row in self._read(held):
            self._waiting[row.id] = (row.lease_token, time.monotonic())

    def look(self) -> None:
        """Call often."""
        if not self._waiting:
            return
        for row in self._read(sa.select(Batch.id, Batch.lease_token).where(Batch.id.in_(list(self._waiting)))):
            token, since = self._waiting[row.id]
            if row.lease_token > token:
                self.seconds.append(time.monotonic() - since)
                del self._waiting[row.id]

    def _read(self, query: sa.Select[tuple[int, int]]) -> list[sa.Row[tuple[int, int]]]:
        try:
            with reading(self._engine) as connection:
                return list(connection.execute(query))
        except DatabaseUnavailable:  # itself down by a fault; the next look sees it
            return []
