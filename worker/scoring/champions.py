"""Which scorer a batch uses: resolved once per batch, so that a promotion never changes it in between.

The champion is one pointer in the database. When it moves, a running worker (`ScorerCache.check`, on a timer) fetches,
loads and tests the new adapter beside the batches under way. Until it is ready, and for PATIENCE_SECONDS at most,
batches of scans that began before the move continue with the previous one, and their verdicts name it. The next batch
after that takes the new one from memory. A batch of a scan that began after the move waits for the new one: whoever
rolls an adapter back and scans again gets no answer of it.

A worker refuses an adapter that fails its canary or whose files are wrong, and reports it. It continues with the
adapter that it serves or, freshly started, with the newest predecessor that passes. It retries the refused one from
time to time, because files get fixed and machines differ.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
import structlog

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.checks import get_check
from scanfleet.db.training import champions, refusals
from scanfleet.db.training.adapters import get_adapter
from scanfleet.errors import DatabaseUnavailable, DeviceUnavailable, Retryable, UnknownName
from scanfleet.models.errors import ModelInvalid
from scanfleet.retry import backoff_seconds, jittered
from scanfleet.worker.scoring.adapter_cache import AdapterCache
from scanfleet.worker.scoring.factory import Resolved, ScorerMaker, Wanted
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()

PATIENCE_SECONDS = 60.0  # for how long batches use the previous champion while the new one is made ready
REFUSED_AGAIN_SECONDS = 60.0  # between two tries of a refused adapter
UNWATCHED_SECONDS = 30.0  # after the last check, the timer is taken for stopped


@dataclass(frozen=True, kw_only=True)
class _Serving:
    """The scorer that the batches of a check use."""

    wanted: Wanted
    resolved: Resolved


@dataclass(frozen=True, kw_only=True)
class _LoadFailure:
    """A failure to make a scorer ready. refused: the adapter itself is wrong; else the error was transient."""

    refused: bool
    attempts: int
    not_before: float  # time.monotonic() of the next try


class ScorerCache:
    """Scorers by their full configuration, for any thread. They share one base model.

    worker: the worker's name in the database, under which refusals are recorded.
    """

    def __init__(self, engine: sa.Engine, model: Model, settings: Settings, *, worker: str) -> None:
        self._engine = engine
        self._model = model
        self._worker = worker
        self._maker = ScorerMaker(engine, model, settings)
        self._memory = AdapterCache(model)
        self._lock = threading.Lock()  # of all that follows; never held while reading the database or making a scorer
        self._known: dict[str, Resolved] = {}  # by key
        self._serving: dict[int, _Serving] = {}  # by check
        self._ready: dict[int, str] = {}  # by check: the key that `check` prepares or has prepared
        self._moved: dict[str, float] = {}  # by key: when this worker first met it, time.monotonic()
        self._failures: dict[str, _LoadFailure] = {}  # by key
        self._checking = False
        self._checked_at = -UNWATCHED_SECONDS
        self._followed: int | None = None  # the newest promotion at the last look

    def resolve(self, check_id: int, *, begun_at: datetime | None = None) -> Resolved:
        """Return the scorer of a check with its current champion, or with the previous one while that is made ready.

        begun_at: when the batch's scan began; adapters replaced by then do not answer it. None: it is older than all.
        The pointer is read here, after the claim, and again in each further attempt.

        Raises DeviceUnavailable, also when neither the champion nor any predecessor can be used. That is not counted
        against the images: they wait until somebody fixes or promotes an adapter. Raises DatabaseUnavailable,
        StoreUnavailable.
        """
        wanted, replaced = self._wanted(check_id, begun_at)
        with self._lock:
            ready = self._known.get(wanted.key)
            if ready is not None:
                return self._serve(wanted, ready)
            serving = self._serving_of(wanted)
            if serving is not None and self._keeps_previous(serving.wanted, wanted, replaced):
                return serving.resolved
        return self._make_now(wanted)

    def forget(self, resolved: Resolved) -> None:
        """Drop a scorer whose row is gone or another one's, so that the next batch makes it again."""
        log.warning("scorer_forgotten", scorer=resolved.scorer_id)
        with self._lock:
            self._known = {key: held for key, held in self._known.items() if held is not resolved}
            self._serving = {key: held for key, held in self._serving.items() if held.resolved is not resolved}

    def check(self, *, newest: int | None = None) -> None:
        """Make changed champions ready, and release unused adapters. Called by a timer, in one thread.

        newest: the newest promotion in the database. If it is the one of the last call and everything is ready, the
        database is not asked. None: it is not known, so it is.

        Raises DatabaseUnavailable.
        """
        self._checking = True
        try:
            with self._lock:
                served = dict(self._serving)
                prepared = all(key in self._known for key in self._ready.values())
            if served and (newest is None or newest != self._followed or not prepared):
                self._follow(served)
                self._followed = newest
            self._forget_unused()
            self._memory.release_unused()
        finally:
            self._checking, self._checked_at = False, time.monotonic()

    def _wanted(self, check_id: int, begun_at: datetime | None = None) -> tuple[Wanted, set[str | None]]:
        """Return what the champion makes of a check, and the adapters replaced since a scan of it began."""
        base_model = self._model.identity.base_model
        with reading(self._engine) as connection:
            check = get_check(connection, check_id)
            adapter = champions.champion(connection, check.name, base_model)
            replaced = champions.replaced_since(connection, check.name, base_model, begun_at)
        return self._maker.wanted(check_id, check, adapter), replaced

    def _serve(self, wanted: Wanted, resolved: Resolved) -> Resolved:
        """With the lock held."""
        before = self._serving.get(wanted.check_id)
        if before is None or before.wanted.key != wanted.key:
            self._serving[wanted.check_id] = _Serving(wanted=wanted, resolved=resolved)
            log.info("champion_in_use", check=wanted.check.name, adapter=wanted.adapter_id, scorer=resolved.scorer_id)
        return resolved

    def _serving_of(self, wanted: Wanted) -> _Serving | None:
        """With the lock held. A restored database may give the id of a check to another one."""
        serving = self._serving.get(wanted.check_id)
        return serving if serving is not None and serving.wanted.check == wanted.check else None

    def _keeps_previous(self, previous: Wanted, wanted: Wanted, replaced: set[str | None]) -> bool:
        """Return whether a batch continues with the previous scorer. With the lock held.

        replaced: the adapters that were in use since the batch's scan began.
        """
        now = time.monotonic()
        watched = self._checking or now - self._checked_at < UNWATCHED_SECONDS
        failure = self._failures.get(wanted.key)
        if failure is not None and failure.refused:
            return watched or now < failure.not_before
        allowed = previous.adapter_sha256 in replaced | {wanted.adapter_sha256}
        return allowed and watched and now - self._moved.setdefault(wanted.key, now) < PATIENCE_SECONDS

    def _make_now(self, wanted: Wanted) -> Resolved:
        try:
            resolved = self._make(wanted)
        except ModelInvalid as error:
            self._refuse(wanted, str(error))
            with self._lock:
                serving = self._serving_of(wanted)
            return self._fall_back(wanted, str(error)) if serving is None else serving.resolved
        with self._lock:
            return self._serve(wanted, resolved)

    def _fall_back(self, wanted: Wanted, reason: str) -> Resolved:
        """Serve the newest usable predecessor of a refused champion. For a check that was not served before."""
        with reading(self._engine) as connection:
            earlier = champions.predecessors(connection, wanted.check.name, self._model.identity.base_model)
        for adapter in earlier:
            candidate = self._maker.wanted(wanted.check_id, wanted.check, adapter)
            try:
                resolved = self._make(candidate)
            except ModelInvalid as error:
                self._refuse(candidate, str(error))
                continue
            log.error("champion_fallback", check=wanted.check.name, adapter=candidate.adapter_id)
            with self._lock:
                return self._serve(candidate, resolved)
        raise DeviceUnavailable(f"check {wanted.check.name}: {reason}")

    def _make(self, wanted: Wanted) -> Resolved:
        """Make a scorer once for all callers. Raises as `ScorerMaker.make`."""
        digest = "" if wanted.adapter is None else wanted.adapter.weights_sha256
        with self._memory.loading(digest) as users:
            with self._lock:
                if wanted.key in self._known:
                    return self._known[wanted.key]
            resolved = self._maker.make(wanted)
            users.update(resolved.users)
            with self._lock:
                self._known[wanted.key] = resolved
                self._moved.pop(wanted.key, None)
                failure = self._failures.pop(wanted.key, None)
        if failure is not None and failure.refused:
            self._record(wanted, None)
        return resolved

    def _refuse(self, wanted: Wanted, reason: str) -> None:
        log.error("adapter_refused", check=wanted.check.name, adapter=wanted.adapter_id, reason=reason)
        self._put_off(wanted, refused=True, seconds=REFUSED_AGAIN_SECONDS)
        self._record(wanted, reason)

    def _put_off(self, wanted: Wanted, *, refused: bool, seconds: float | None = None) -> None:
        with self._lock:
            before = self._failures.get(wanted.key)
            attempts = 1 if before is None else before.attempts + 1
            pause = jittered(backoff_seconds(attempts)) if seconds is None else seconds
            not_before = time.monotonic() + pause
            self._failures[wanted.key] = _LoadFailure(refused=refused, attempts=attempts, not_before=not_before)

    def _record(self, wanted: Wanted, reason: str | None) -> None:
        """Record a refusal in the database; None: its end. If that fails, serving continues."""
        assert wanted.adapter_id is not None
        try:
            with transaction(self._engine) as connection:
                if get_adapter(connection, wanted.adapter_id).weights_sha256 != wanted.adapter_sha256:
                    return  # a restored database gave its id to another one
                if reason is None:
                    refusals.take_back(connection, wanted.adapter_id, worker=self._worker)
                else:
                    refusals.record_refusal(connection, wanted.adapter_id, worker=self._worker, why=reason)
        except (DatabaseUnavailable, UnknownName) as error:
            log.warning("refusal_not_recorded", adapter=wanted.adapter_id, error=str(error))

    # on the timer

    def _follow(self, served: dict[int, _Serving]) -> None:
        base_model = self._model.identity.base_model
        with reading(self._engine) as connection:
            pointers = champions.in_use(connection, base_model)
        for check_id, serving in served.items():
            if pointers.get((serving.wanted.check.name, base_model)) == serving.wanted.adapter_id:
                with self._lock:
                    self._ready.pop(check_id, None)
            else:
                try:
                    wanted = self._wanted(check_id)[0]
                except sa.exc.NoResultFound:  # a restored database has lost the check
                    with self._lock:
                        self._serving.pop(check_id, None)
                        self._ready.pop(check_id, None)
                    continue
                self._prepare(wanted)

    def _prepare(self, wanted: Wanted) -> None:
        with self._lock:
            self._ready[wanted.check_id] = wanted.key
            if wanted.key in self._known:
                return
            self._moved.setdefault(wanted.key, time.monotonic())
            failure = self._failures.get(wanted.key)
            if failure is not None and time.monotonic() < failure.not_before:
                return
        try:
            self._make(wanted)
        except ModelInvalid as error:
            self._refuse(wanted, str(error))
        except Retryable as error:
            log.warning("champion_not_ready", check=wanted.check.name, adapter=wanted.adapter_id, error=str(error))
            self._put_off(wanted, refused=False)

    def _forget_unused(self) -> None:
        """Drop scorers that no check uses."""
        with self._lock:
            kept = {serving.wanted.key for serving in self._serving.values()} | set(self._ready.values())
            for key in self._known.keys() - kept:
                del self._known[key]
