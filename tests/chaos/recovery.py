"""Measures the progress, and how long the batches of a killed worker wait until another worker has them."""

from __future__ import annotations

import time

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch
from scanfleet.errors import DatabaseUnavailable


def n_settled(engine: sa.Engine) -> int | None:
    """Count the images that have a verdict or a failure; None while the database is away."""
    total = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_verdicts + Batch.n_failures), 0))
    try:
        with reading(engine) as connection:
            return int(connection.execute(total).scalar_one())
    except DatabaseUnavailable:
        return None


class Recovery:
    """free_seconds: of every batch a killed worker held, from the kill until anybody may take it (lease + reconcile).

    claimed_seconds: until somebody has it, which includes its turn behind the other batches.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.free_seconds: list[float] = []
        self.claimed_seconds: list[float] = []
        self._engine = engine
        self._held: dict[int, tuple[int, float]] = {}  # batch -> (token it was held under, time of the kill)
        self._free: dict[int, tuple[int, float]] = {}  # the same, once the lease has expired

    def killed(self, pid: int) -> None:
        """Call right after the kill: remembers what that process held."""
        owner = Batch.lease_owner.contains(f"-{pid}-", autoescape=True)
        for row in self._read(Batch.state == "leased", owner):
            self._held[row.id] = (row.lease_token, time.monotonic())

    def look(self) -> None:
        """Call often."""
        watched = [*self._held, *self._free]
        for row in self._read(Batch.id.in_(watched)) if watched else ():
            claimed = row.lease_token > (self._held.get(row.id) or self._free[row.id])[0]
            if row.id in self._held and (claimed or row.state != "leased"):
                self._free[row.id] = self._held.pop(row.id)
                self.free_seconds.append(time.monotonic() - self._free[row.id][1])
            if claimed:
                self.claimed_seconds.append(time.monotonic() - self._free.pop(row.id)[1])

    def forget(self) -> None:
        """Call after the database was restored: its ids and tokens repeat."""
        self._held.clear()
        self._free.clear()

    def _read(self, *where: sa.ColumnElement[bool]) -> list[sa.Row[tuple[int, int, str]]]:
        try:
            with reading(self._engine) as connection:
                return list(connection.execute(sa.select(Batch.id, Batch.lease_token, Batch.state).where(*where)))
        except DatabaseUnavailable:  # itself down by a fault; the next call sees it
            return []
