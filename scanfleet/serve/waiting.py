"""Waiting for batches: one task asks the ledger for all requests that wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from scanfleet.errors import DatabaseUnavailable
from scanfleet.producer.scans.request import open_batches

POLL_SECONDS = 0.05


class Waiter:
    """Wakes each request when the last of its batches is settled."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: dict[asyncio.Future[None], frozenset[int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, batch_ids: tuple[int, ...], *, seconds: float) -> bool:
        """Return whether all are settled in time. Raises DatabaseUnavailable."""
        if not await run_in_threadpool(open_batches, self._engine, batch_ids):
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = frozenset(batch_ids)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(future, seconds)
                return True
            return False
        finally:
            self._waiting.pop(future, None)

    async def _watch(self) -> None:
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            now = dict(self._waiting)
            wanted = sorted(frozenset().union(*now.values()))
            try:
                left = await run_in_threadpool(open_batches, self._engine, wanted)
            except DatabaseUnavailable as error:
                for future in now:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, ids in now.items():
                if not future.done() and left.keys().isdisjoint(ids):
                    future.set_result(None)
