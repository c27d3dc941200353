"""The common part of `scan` and `run`: the request, the session with ledger and broker, and the preview."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import sqlalchemy as sa
from celery import Celery

from scanfleet.checks.check import Check, builtin_names, load_check
from scanfleet.checks.multi import load_checks, require_one
from scanfleet.checks.pack import load_pack
from scanfleet.config.diagnosis import check_broker, warn_of_open_connections
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.results import known_identities
from scanfleet.db.scans.checks import list_checks, resolve_check, resolve_checks
from scanfleet.db.scans.crash_isolation import expire_worker
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.workers import WorkerInfo, last_end, live_workers
from scanfleet.db.schema import ledger
from scanfleet.errors import BrokerUnavailable, RequestError
from scanfleet.images.formats import SEVERAL_SUFFIXES
from scanfleet.messages import score_queue
from scanfleet.producer.scans.enqueue import Enqueued, enqueue
from scanfleet.producer.scans.webhooks import telling
from scanfleet.producer.sources.filters import Filters, pages, parse_sample
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.queue.app import make_app
from scanfleet.retry import retry_database

SILENT_SECONDS = 30.0  # a worker without a heartbeat for this long does not count as live


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `scan` and `run`, as typed."""

    sources: tuple[str, ...]
    check_names: tuple[str, ...]
    model: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    limit: int | None
    sample: str | None
    seed: int
    fresh: bool
    members: bool = False
    pack: Path | None = None
    notify: str | None = None  # the address to tell when the scans end

    def listing(self, settings: Settings) -> Listing:
        """Open the sources. Raises RequestError (a filter), SourceNotFound, BadSource."""
        filters = Filters(
            include=self.include,
            exclude=self.exclude,
            limit=self.limit,
            sample=None if self.sample is None else parse_sample(self.sample),
            seed=self.seed,
            members=self.members,
        )
        sources = [open_source(source, settings, members=self.members) for source in self.sources]
        return Listing(sources, filters)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The ledger and broker of one command."""

    settings: Settings
    engine: sa.Engine
    app: Celery

    def enqueue(self, request: Request) -> Iterator[Enqueued]:
        """See `producer.scans.enqueue`."""
        pages = enqueue(
            self.engine,
            self.app,
            self.settings,
            listing=request.listing(self.settings),
            checks=find_checks(self.engine, request),
            fresh=request.fresh,
        )
        return telling(self.engine, self.settings, pages, url=request.notify)


def missing_worker_hint(engine: sa.Engine, *, model: str, queue: str) -> str | None:
    """Return what to do if no worker serves this model; None if one does."""
    with reading(engine) as connection:
        workers = live_workers(connection, silent_seconds=SILENT_SECONDS)
        ended = last_end(connection, queue)
    problem, queues = startup_problem(workers, queue), {worker.queue for worker in workers}
    if problem is not None:
        return f"no worker for model {model} can start yet: {problem}"
    if queue in queues:
        return None
    if ended is not None:
        return f"no live worker for model {model}: the last one ended: {ended}"
    others = f" (live: {', '.join(sorted(queues)[:5])})" if queues else ""
    return f"no live worker for model {model}{others}. Start one: `scanfleet worker score --model {model}`"


def why_no_worker(connection: sa.Connection, queue: str, *, ended: bool) -> str | None:
    """Return why no worker of a queue takes batches; None if one does, or if there is none and nobody knows why.

    ended: whether the refusal that ended the last one counts.
    """
    workers = live_workers(connection, silent_seconds=SILENT_SECONDS)
    if ended and all(worker.queue != queue for worker in workers):
        why = last_end(connection, queue)
        return None if why is None else f"a worker; the last one ended: {why}"
    return startup_problem(workers, queue)


def startup_problem(workers: Sequence[WorkerInfo], queue: str) -> str | None:
    """Return why the workers of a queue cannot start; None if any of them can, or if there are none."""
    waits = [worker.waiting_for for worker in workers if worker.queue == queue]
    return waits[0] if waits and all(waits) else None


def free_batches(engine: sa.Engine, pid: int) -> None:
    """Free the batches of a worker of this machine that died, without waiting for its leases to expire."""
    host = socket.gethostname()

    def free() -> None:
        with transaction(engine) as connection:
            expire_worker(connection, host=host, pid=pid)

    retry_database(free)


def require_column(listing: Listing, column: str) -> None:
    """Check the first image for a manifest column before anything is written. Raises RequestError."""
    first = next(listing.images(), None)
    if first is None or (first.meta is not None and column in first.meta):
        return
    columns = ", ".join(first.meta) if first.meta else "none; only manifests have columns"
    raise RequestError(f"--truth {column}: the source has no such column (columns: {columns})")


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """Open ledger and broker. Raises SchemaOutdated, DatabaseUnavailable, and BadSettings if the broker refuses us.

    An unavailable broker is reported at the first notification; the listing continues without it.
    """
    warn_of_open_connections(settings)
    with ledger(settings) as engine, make_app(settings, (score_queue(settings.model),)) as app:
        with suppress(BrokerUnavailable):
            check_broker(app)
        yield Session(settings=settings, engine=engine, app=app)


def find_check(engine: sa.Engine | None, name: str) -> Check:
    """Return a check by name or file; without a database, only built-in names. Raises UnknownName, BadCheck."""
    if engine is None:
        return require_one(load_checks(name), name=name)
    with reading(engine) as connection:
        return resolve_check(connection, name)


def find_several(engine: sa.Engine | None, name: str) -> list[Check]:
    """Return the checks of a name or file: several for one of kind multi. Raises as `find_check`."""
    if engine is None:
        return load_checks(name)
    with reading(engine) as connection:
        return resolve_checks(connection, name)


def known_checks(engine: sa.Engine | None) -> list[Check]:
    """Return the newest version of each check, by name; without a database, the built-in ones."""
    if engine is None:
        return [load_check(name) for name in sorted(builtin_names())]
    with reading(engine) as connection:
        return [check for _, check in sorted(list_checks(connection).items())]


def find_checks(engine: sa.Engine | None, request: Request) -> list[Check]:
    """Return each check of a request once, then those of its pack. Raises as `find_check`."""
    resolve = partial(find_several, engine)
    entries = [] if request.pack is None else load_pack(request.pack)
    found = [resolve(name) for name in request.check_names] + [entry.find(resolve) for entry in entries]
    return list({check.hash: check for checks in found for check in checks}.values())


@contextmanager
def existing_ledger(settings: Settings) -> Iterator[sa.Engine | None]:
    """Open the database; yield None if the embedded one does not exist yet, since reading must not create it."""
    url = sa.make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
        yield None
        return
    with ledger(settings) as engine:
        yield engine


PAGE_IMAGES = 1024


@dataclass(kw_only=True)
class Preview:
    n_images: int = 0
    n_bytes: int = 0
    n_unsized: int = 0  # images of unknown size
    n_scored: list[int]  # for each check, images whose version already has a verdict by it and the model
    n_several: int = 0  # images that may hold several pictures, by their names
    n_skipped: int = 0
    idle_excludes: tuple[str, ...] = ()  # globs of --exclude that matched nothing
    n_left_out: int = 0  # entries of manifests and archives that name no image
    left_out: tuple[str, ...] = ()  # the first of them, each with the reason


def preview(engine: sa.Engine | None, listing: Listing, *, checks: Sequence[Check], model: str) -> Preview:
    """Count what a scan would take. engine None: there is no database yet, so nothing is scored."""
    found = Preview(n_scored=[0] * len(checks))
    images = islice(listing.images(), listing.filters.limit)
    for page in pages(images, batch_images=PAGE_IMAGES):
        found.n_images += len(page)
        found.n_bytes += sum(image.size or 0 for image in page)
        found.n_unsized += sum(image.size is None for image in page)
        found.n_several += sum(image.uri.lower().endswith(SEVERAL_SUFFIXES) for image in page)
        if engine is not None:
            scored = [_scored(engine, page, check=check, model=model) for check in checks]
            found.n_scored = [before + more for before, more in zip(found.n_scored, scored, strict=True)]
    found.n_skipped = listing.counts.n_skipped
    found.n_left_out = listing.counts.n_left_out
    found.left_out = tuple(map(str, listing.counts.left_out))
    found.idle_excludes = tuple(sorted(listing.counts.idle or ()))
    return found


def _scored(engine: sa.Engine, page: list[NewImage], *, check: Check, model: str) -> int:
    identities = [image.identity for image in page]
    with reading(engine, long=True) as connection:
        known = known_identities(
            connection, check_hash=check.scored_hash, model=model, identities=identities, explained=check.explain
        )
    return sum(identity in known for identity in identities)
