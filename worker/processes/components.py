"""Assembles the parts of a scoring worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.decoding.pool import Decoders
from scanfleet.storage.open import StoreFinder
from scanfleet.worker.batch.context import WorkerContext, look_up_content
from scanfleet.worker.batch.leases import Leases
from scanfleet.worker.batch.passes.siblings import Passes
from scanfleet.worker.batch.pipeline import Pipeline
from scanfleet.worker.device.executor import Device
from scanfleet.worker.device.probe import budget_for
from scanfleet.worker.processes import decoder_count
from scanfleet.worker.processes.decoder_count import DecoderCount
from scanfleet.worker.processes.registration import new_name
from scanfleet.worker.runtime.activity import ActivityTracker
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.runtime.timer import Timer
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.model import Model


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The parts of a running worker, without a broker."""

    name: str  # of this process: host-pid-random
    engine: sa.Engine
    pipeline: Pipeline
    scorers: ScorerCache
    device: Device
    model: Model
    tracker: ActivityTracker


@contextmanager
def running(
    settings: Settings,
    *,
    engine: sa.Engine,
    model: Model,
    stop: Stop,
    stores: StoreFinder,
    name: str | None = None,
    on_broken: Callable[[], None] = lambda: None,
) -> Iterator[Scoring]:
    """Run a pipeline with its device threads, stage threads, decoder processes and heartbeat inside the context."""
    name = name or new_name()
    device = Device(
        token_budget=budget_for(settings, model),
        streams=model.streams,
        one_by_one=model.one_by_one,
        on_broken=on_broken,
    )
    threads = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="stage")
    decoders = Decoders(settings)
    leases = Leases(engine, worker=name, lease_seconds=settings.lease_seconds)
    tracker = ActivityTracker()
    context = WorkerContext(
        threads=threads,
        decoders=decoders,
        device=device,
        stores=stores,
        answers_by_content=look_up_content(engine),
        settings=settings,
        tracker=tracker,
    )
    scorers = ScorerCache(engine, model, settings, worker=name)
    pipeline = Pipeline(
        engine=engine,
        model=settings.model,
        scorers=scorers,
        passes=Passes(engine, model, scorers, name=settings.model),
        context=context,
        leases=leases,
        stop=stop,
    )
    heartbeat = Timer("heartbeat", leases.beat, seconds=settings.lease_seconds / 3)
    notice = Timer("notice", leases.check_scans, seconds=settings.reconcile_seconds)
    counting = Timer("decoders", DecoderCount(decoders, device.occupancy).check, seconds=decoder_count.CHECK_SECONDS)
    device.start()
    heartbeat.start()
    notice.start()
    counting.start()
    try:
        yield Scoring(
            name=name,
            engine=engine,
            pipeline=pipeline,
            scorers=scorers,
            device=device,
            model=model,
            tracker=tracker,
        )
    finally:
        counting.stop()
        notice.stop()
        heartbeat.stop()
        # Hardly wait: a forward or a download still under way belongs to a batch that was handed back.
        device.stop(wait_seconds=1.0)
        threads.shutdown(wait=False, cancel_futures=True)
        decoders.close()
