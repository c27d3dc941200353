"""One scan, as a Python object."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from scanfleet.api.results import Results
from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import scans
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.db.schema import ledger
from scanfleet.producer.local.workers import LocalWorkers, require_worker_extra
from scanfleet.producer.scans.session import free_batches, open_session
from scanfleet.producer.scans.wait import snapshot_of, watch_and_reconcile


class Scan:
    """A scan: its id, check and model, how far it is, and its answers.

    left_out: the first entries of manifests that name no image, each with the reason. others: the scans of the other
    checks, if it was begun with several.
    """

    def __init__(self, settings: Settings, info: ScanInfo, *, left_out: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self.id = info.id
        self.check = info.check
        self.model = info.model
        self.sources = info.sources
        self.created_at = info.created_at
        self.left_out = left_out
        self.others: tuple[Scan, ...] = ()

    def __repr__(self) -> str:
        return f"<Scan {self.id} check={self.check!r} model={self.model!r} sources={list(self.sources)!r}>"

    @property
    def state(self) -> str:
        """Running, paused, cancelled or done, as it is now."""
        with ledger(self._settings) as engine:
            return snapshot_of(engine, self.id).scan.state

    def progress(self) -> Progress:
        """Return its counts as they are now: `scanfleet scans show`."""
        with ledger(self._settings) as engine:
            return snapshot_of(engine, self.id).progress

    def wait(self, *, workers: int = 0, timeout: float | None = None) -> Progress:
        """Wait until the scan has ended, and return its counts.

        Images that could not be scored raise nothing: they are in `progress().n_failures` and `errors()`.

        Args:
            workers: worker processes to start on this machine meanwhile, as `scanfleet run` does. 0: those of the
                fleet score it; without any it waits for ever.
            timeout: seconds; None: no limit.

        Raises: TimeoutError (the scan goes on), WorkerDied, UnknownModel, MissingExtra (torch is not installed).
        """
        if workers:
            require_worker_extra()
        ends_at = None if timeout is None else time.monotonic() + timeout
        with open_session(self._settings) as session:
            free = partial(free_batches, session.engine)
            with LocalWorkers(self._settings, n=workers, on_death=free) as local:
                watched = watch_and_reconcile(
                    session.engine, session.app, self._settings, self.id, own_workers=workers > 0
                )
                for now in watched:
                    if now.ended:
                        break
                    local.start()
                    local.check(now.progress.n_done)
                    if ends_at is not None and time.monotonic() > ends_at:
                        raise TimeoutError(f"scan {self.id}: {now.progress.n_pending} images pending; it goes on")
        return now.progress

    def results(self, **filters: Any) -> Results:
        """Return its answers and failures, one per image. See `Results`."""
        return Results(self._settings, filters | {"scan": self.id})

    def errors(self) -> Results:
        """Return the images that could not be scored: `scanfleet scans errors`."""
        return self.results(state="failed")

    def pause(self) -> None:
        """Stop handing out its batches: `scanfleet scans pause`."""
        with ledger(self._settings) as engine, transaction(engine) as connection:
            scans.pause(connection, self.id)

    def resume(self) -> None:
        """Go on with a paused scan: `scanfleet scans resume`."""
        with ledger(self._settings) as engine, transaction(engine) as connection:
            scans.resume(connection, self.id)

    def cancel(self) -> None:
        """End it for good; what is scored stays: `scanfleet scans cancel`."""
        with ledger(self._settings) as engine, transaction(engine) as connection:
            scans.cancel(connection, self.id)
