"""Which scorer answers a batch: resolved once per batch, so a promotion never cuts through one.

The champion is one pointer in the ledger. When it moves, the watch of a running worker (`Scorers.look`) fetches, loads
and tries the new adapter beside the batches under way; until it is ready, and for PATIENCE_SECONDS at most, batches go
on with the one before, and their verdicts name it. Then the next batch takes it: nothing is left to do but a look-up.

An adapter that this worker must not use (its canary speaks against it, its files are wrong) is refused, loudly: the
worker goes on with what it serves, or, freshly started, with the newest predecessor that passes. It tries again now and
then, because files are mended and machines are not all alike.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from models.errors import ModelInvalid
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.checks import get_check
from scanfleet.db.training import champions, refusals
from scanfleet.errors import DatabaseUnavailable, DeviceUnavailable, Retryable
from scanfleet.retry import backoff_seconds, jittered
from worker.scoring.adapter_cache import AdapterCache
from worker.scoring.factory import Resolved, ScorerMaker, Wanted
from worker.scoring.model import Model

log = structlog.get_logger()

PATIENCE_SECONDS = 60.0  # that batches go on with the champion before, while the new one is made ready
REFUSED_AGAIN_SECONDS = 60.0  # between two tries of a refused adapter
UNWATCHED_SECONDS = 30.0  # after its last look, nobody counts on the watch any more


@dataclass(frozen=True, kw_only=True)
class _Serving:
    """What the batches of a check get."""

    wanted: Wanted
    resolved: Resolved


@dataclass(frozen=True, kw_only=True)
class _Trouble:
    """Why a scorer could not be made ready. refused: not for want of anything that heals by itself."""

    refused: bool
    attempts: int
    not_before: float  # time.monotonic() of the next try


class ScorerCache:
    """Scorers by their full configuration. They share one base model, and any thread may ask for one.

    worker: its name in the ledger, under which it refuses adapters.
    """

    def __init__(self, engine: sa.Engine, model: Model, settings: Settings, *, worker: str = "") -> None:
        self._engine = engine
        self._model = model
        self._worker = worker
        self._maker = ScorerMaker(engine, model, settings)
        self._memory = AdapterCache(model)
        self._lock = threading.Lock()  # of all that follows; never held while anything is read or made
        self._known: dict[str, Resolved] = {}  # by key
        self._serving: dict[int, _Serving] = {}  # by check
        self._ready: dict[int, str] = {}  # by check: the key that the watch prepares, or has prepared
        self._moved: dict[str, float] = {}  # by key: when this worker first met it, time.monotonic()
        self._trouble: dict[str, _Trouble] = {}  # by key
        self._looking = False
        self._looked_at = -UNWATCHED_SECONDS

    def resolve(self, check_id: int) -> Resolved:
        """The scorer of a check with its champion of this moment, or the one before while that is made ready.

        Raises DeviceUnavailable, also when no champion there ever was can be used: the images are not at fault, so
        they wait until a person mends or promotes an adapter. Raises DatabaseUnavailable, StoreUnavailable.
        """
        wanted = self._ask(check_id)
        with self._lock:
            known = self._known.get(wanted.key)
            if known is not None:
                return self._serve(wanted, known)
            serving = self._serving.get(check_id)
            if serving is not None and self._goes_on(wanted):
                return serving.resolved
        return self._make_now(wanted)

    def look(self) -> None:
        """Make champions ready that changed, and release what is used no more. For a timer, in one thread.

        Raises DatabaseUnavailable.
        """
        self._looking = True
        try:
            with self._lock:
                served = dict(self._serving)
            if served:
                self._follow(served)
            self._forget_unused()
            self._memory.release_unused()
        finally:
            self._looking, self._looked_at = False, time.monotonic()

    def _ask(self, check_id: int) -> Wanted:
        with reading(self._engine) as connection:
            check = get_check(connection, check_id)
            adapter = champions.champion(connection, check.name, self._model.identity.base_model)
        return self._maker.wanted(check_id, check, adapter)

    def _serve(self, wanted: Wanted, resolved: Resolved) -> Resolved:
        """With the lock held."""
        before = self._serving.get(wanted.check_id)
        if before is None or before.wanted.key != wanted.key:
            self._serving[wanted.check_id] = _Serving(wanted=wanted, resolved=resolved)
            log.info("champion_in_use", check=wanted.check.name, adapter=wanted.adapter_id, scorer=resolved.scorer_id)
        return resolved

    def _goes_on(self, wanted: Wanted) -> bool:
        """Whether batches go on with what they have, though something else is wanted. With the lock held."""
        now = time.monotonic()
        watched = self._looking or now - self._looked_at < UNWATCHED_SECONDS
        trouble = self._trouble.get(wanted.key)
        if trouble is not None and trouble.refused:
            return watched or now < trouble.not_before
        return watched and now - self._moved.setdefault(wanted.key, now) < PATIENCE_SECONDS

    def _make_now(self, wanted: Wanted) -> Resolved:
        try:
            resolved = self._make(wanted)
        except ModelInvalid as error:
            self._refuse(wanted, str(error))
            with self._lock:
                serving = self._serving.get(wanted.check_id)
            return self._go_back(wanted, str(error)) if serving is None else serving.resolved
        with self._lock:
            return self._serve(wanted, resolved)

    def _go_back(self, wanted: Wanted, why: str) -> Resolved:
        """What a worker that has not served the check yet takes in the place of a champion that it refuses."""
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
        raise DeviceUnavailable(f"check {wanted.check.name}: {why}")

    def _make(self, wanted: Wanted) -> Resolved:
        """Once, whoever asks. Raises as `ScorerMaker.make`."""
        digest = "" if wanted.adapter is None else wanted.adapter.weights_sha256
        with self._memory.loading(digest) as users:
            with self._lock:
                if wanted.key in self._known:
                    return self._known[wanted.key]
            resolved = self._maker.make(wanted)
            users.add(resolved.scorer)
            if resolved.boxes is not None and resolved.boxes.finder is not None:
                users.add(resolved.boxes.finder)
            with self._lock:
                self._known[wanted.key] = resolved
                self._moved.pop(wanted.key, None)
                trouble = self._trouble.pop(wanted.key, None)
        if trouble is not None and trouble.refused:
            self._note(wanted, None)
        return resolved

    def _refuse(self, wanted: Wanted, why: str) -> None:
        log.error("adapter_refused", check=wanted.check.name, adapter=wanted.adapter_id, why=why)
        self._put_off(wanted, refused=True, seconds=REFUSED_AGAIN_SECONDS)
        self._note(wanted, why)

    def _put_off(self, wanted: Wanted, *, refused: bool, seconds: float | None = None) -> None:
        with self._lock:
            before = self._trouble.get(wanted.key)
            attempts = 1 if before is None else before.attempts + 1
            pause = jittered(backoff_seconds(attempts)) if seconds is None else seconds
            not_before = time.monotonic() + pause
            self._trouble[wanted.key] = _Trouble(refused=refused, attempts=attempts, not_before=not_before)

    def _note(self, wanted: Wanted, why: str | None) -> None:
        """In the ledger, for people; serving does not wait for that."""
        assert wanted.adapter_id is not None
        try:
            with transaction(self._engine) as connection:
                if why is None:
                    refusals.take_back(connection, wanted.adapter_id, worker=self._worker)
                else:
                    refusals.record_refusal(connection, wanted.adapter_id, worker=self._worker, why=why)
        except DatabaseUnavailable as error:
            log.warning("refusal_not_noted", adapter=wanted.adapter_id, error=str(error))

    # the watch

    def _follow(self, served: dict[int, _Serving]) -> None:
        base_model = self._model.identity.base_model
        with reading(self._engine) as connection:
            pointers = champions.in_use(connection, base_model)
        for check_id, serving in served.items():
            if pointers.get((serving.wanted.check.name, base_model)) == serving.wanted.adapter_id:
                with self._lock:
                    self._ready.pop(check_id, None)
            else:
                self._prepare(self._ask(check_id))

    def _prepare(self, wanted: Wanted) -> None:
        with self._lock:
            self._ready[wanted.check_id] = wanted.key
            self._moved.setdefault(wanted.key, time.monotonic())
            trouble = self._trouble.get(wanted.key)
            if wanted.key in self._known or (trouble is not None and time.monotonic() < trouble.not_before):
                return
        try:
            self._make(wanted)
        except ModelInvalid as error:
            self._refuse(wanted, str(error))
        except Retryable as error:
            log.warning("champion_not_ready", check=wanted.check.name, adapter=wanted.adapter_id, error=str(error))
            self._put_off(wanted, refused=False)

    def _forget_unused(self) -> None:
        """Scorers that no check asks for."""
        with self._lock:
            kept = {serving.wanted.key for serving in self._serving.values()} | set(self._ready.values())
            for key in self._known.keys() - kept:
                del self._known[key]
