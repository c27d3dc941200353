"""Checks whether this machine reaches ledger, broker and store, and times each. Needs no torch."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import sqlalchemy as sa

from scanfleet.config.diagnosis import check_broker, local_broker_warning
from scanfleet.config.settings import Settings
from scanfleet.db.engine import OTHERS, reading
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.workers import WorkerInfo, live_workers
from scanfleet.db.schema import check_schema, connect_at_start
from scanfleet.errors import Retryable, ScanfleetError, SchemaOutdated, SchemaTooNew
from scanfleet.producer.scans.session import SILENT_SECONDS
from scanfleet.producer.sources.named import NamedImages
from scanfleet.producer.training.refusals import refusal_text, refused_champions
from scanfleet.queue.app import broker_folder, make_app
from scanfleet.redaction import redact
from scanfleet.stats.stage_times import StageTimes
from scanfleet.storage.adapter_files import shared_place
from scanfleet.storage.open import OpenStores, open_store

LOW_DISK_BYTES = 1_000_000_000
SLOW_SECONDS = 0.1  # of a query or a connection; each batch costs several
FETCHED_IMAGES = 200  # at most, of a source
REMEDIES = {  # for services that do not answer
    "ledger": "check that it runs and that database_url is right; nothing is lost, workers wait for it",
    "broker": "check that it runs and that broker_url is right; nothing is lost, workers wait for it",
    "store": "check that it runs, s3_endpoint_url and the credentials; nothing is lost, workers wait for it",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. status: ok, warn, fail or skip. exit_code: of a failure."""

    name: str
    status: str
    text: str
    remedy: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def failure(name: str, error: ScanfleetError) -> Finding:
    """Make a finding of an error. Most errors already name a remedy."""
    words = redact(" ".join(str(error).split()))
    remedy = REMEDIES.get(name) if isinstance(error, Retryable) else None
    return Finding(name=name, status="fail", text=words, remedy=remedy, exit_code=error.exit_code)


def check_services(settings: Settings) -> Iterator[Finding]:
    """Check data folder, ledger, workers, broker and adapters_url; an error of one does not hide the others."""
    checks = (("data folder", _data_dir), ("ledger", _ledger), ("broker", _broker), ("adapters_url", _adapters_place))
    for name, check in checks:
        try:
            yield from check(settings)
        except ScanfleetError as error:
            yield failure(name, error)


def _data_dir(settings: Settings) -> Iterator[Finding]:
    place = settings.data_dir
    while not place.exists():  # find the nearest folder that exists
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{settings.data_dir}: {free / 1e9:.1f} GB free"
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            name="data folder", status="warn", text=f"{place} is not writable", remedy="set data_dir to another folder"
        )
    elif place == settings.data_dir and place.stat().st_mode & OTHERS:
        mode = stat.S_IMODE(place.stat().st_mode)
        text = f"{place}: other users of this machine may enter it (mode {mode:o})"
        yield Finding(name="data folder", status="warn", text=text, remedy=f"chmod 700 {place}, unless users share it")
    elif free < LOW_DISK_BYTES:
        remedy = "free some space, or set data_dir to another folder"
        yield Finding(name="data folder", status="warn", text=text, remedy=remedy)
    else:
        yield Finding(name="data folder", status="ok", text=text, figures={"free_bytes": free})


def _ledger(settings: Settings) -> Iterator[Finding]:
    """Check the ledger without creating or changing a database. Raises ScanfleetError."""
    url = sa.make_url(settings.database)
    name = redact(url.render_as_string())
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
        yield Finding(name="ledger", status="ok", text=f"{name}: does not exist yet; the first scan creates it")
        return
    start = time.perf_counter()
    with connect_at_start(settings) as engine:
        connected = time.perf_counter() - start
        try:
            check_schema(engine)
        except SchemaOutdated as error:
            if settings.database_url is not None or isinstance(error, SchemaTooNew):
                raise
            yield Finding(name="ledger", status="warn", text=str(error), remedy="any command that writes upgrades it")
            return
        start = time.perf_counter()
        with reading(engine) as connection:
            workers = live_workers(connection, silent_seconds=SILENT_SECONDS)
            refused = refused_champions(connection)
        asked = time.perf_counter() - start
    text = f"{name}: connected in {_ms(connected)}, a query takes {_ms(asked)}"
    figures = {"connect_seconds": connected, "ask_seconds": asked}
    yield _timed("ledger", text, asked, figures, remedy="each batch needs several queries: move the workers closer")
    yield _workers(workers)
    if refused:
        yield Finding(
            name="adapters",
            status="warn",
            text="; ".join(map(refusal_text, refused)),
            remedy="see `scanfleet adapters show ID`; fix its files or that worker, or roll back",
            figures={"refusals": len(refused)},
        )


def _workers(workers: list[WorkerInfo]) -> Finding:
    """Report the activity of the live workers."""
    waits = next((worker for worker in workers if worker.waiting_for), None)
    if waits is not None:
        text = f"{waits.id} for {waits.queue} cannot start yet: {waits.waiting_for}"
        return Finding(name="workers", status="warn", text=text, figures={"n": len(workers)})
    if not workers:
        return Finding(name="workers", status="ok", text="no live worker", figures={"n": 0})
    queues = ", ".join(sorted({worker.queue for worker in workers}))
    whole = StageTimes(sums=_sum(workers))
    text = f"{len(workers)} running for {queues}"
    if whole.idle_share is None:
        return Finding(name="workers", status="ok", text=text, figures={"n": len(workers)})
    figures = {"n": len(workers), "device_idle_share": whole.idle_share, "bottleneck": whole.bottleneck}
    text += f", devices idle {whole.idle_share:.0%} of the time".replace("%", " %")
    remedy = f"bottleneck: {whole.bottleneck}; see `scanfleet scans show`" if whole.starved else None
    return Finding(name="workers", status="warn" if whole.starved else "ok", text=text, remedy=remedy, figures=figures)


def _sum(workers: list[WorkerInfo]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for worker in workers:
        for name, value in (worker.seconds or {}).items():
            sums[name] = sums.get(name, 0.0) + float(value or 0.0)
    return sums


def _broker(settings: Settings) -> Iterator[Finding]:
    """Raises ScanfleetError."""
    name = redact(settings.broker)
    lonely = local_broker_warning(settings)
    if lonely is not None:
        yield Finding(name="broker", status="warn", text=lonely)
        return
    if settings.broker.startswith("filesystem"):
        folder = broker_folder(settings)
        if not folder.is_dir():
            yield Finding(name="broker", status="ok", text=f"{folder}: does not exist yet; the first scan creates it")
            return
        name = f"the folder {folder}"
    start = time.perf_counter()
    with make_app(settings) as app:
        check_broker(app)
    seconds = time.perf_counter() - start
    text = f"{name}: connected in {_ms(seconds)}"
    yield _timed("broker", text, seconds, {"connect_seconds": seconds}, remedy="move the broker nearer to the workers")


def _adapters_place(settings: Settings) -> Iterator[Finding]:
    """Check adapters_url if it is set: workers read it, and trainings write to it. Raises ScanfleetError."""
    if settings.adapters_url is None:
        return
    place = shared_place(settings)
    next(open_store(place, settings, root=place).list(f"{place}/" if place.startswith("s3://") else place), None)
    if not place.startswith("s3://") and not os.access(place, os.W_OK | os.X_OK):
        text = f"{place} is not writable: trainings on this machine cannot store their adapters there"
        yield Finding(name="adapters_url", status="warn", text=text)
        return
    yield Finding(name="adapters_url", status="ok", text=f"{redact(place)} can be listed")


def _timed(name: str, text: str, seconds: float, figures: dict[str, Any], *, remedy: str) -> Finding:
    slow = seconds > SLOW_SECONDS
    return Finding(
        name=name, status="warn" if slow else "ok", text=text, remedy=remedy if slow else None, figures=figures
    )


def check_source(settings: Settings, source: str | None, *, seconds: float) -> Finding:
    """List a source and fetch from it for some seconds, with as many threads as a worker.

    The figure images_per_second is the rate of fetching.
    """
    if source is None:
        return Finding(name="store", status="skip", text="not checked: name a folder or bucket with --source")
    start = time.perf_counter()
    named = NamedImages([source], settings)
    images = list(islice(named, FETCHED_IMAGES))
    if named.errors and not images:
        return failure("store", named.errors[0])
    listed = time.perf_counter() - start
    try:
        n, n_bytes, took = _fetch_all(settings, images, seconds=seconds)
    except ScanfleetError as error:
        return failure("store", error)
    text = f"{redact(source)}: {len(images)} images listed in {_ms(listed)}, {n} fetched"
    if seconds == 0:
        return Finding(name="store", status="ok", text=f"{text}; --seconds 0: speed not measured")
    if n == 0:
        remedy = "try a larger --seconds; a store this slow delays every worker"
        return Finding(name="store", status="warn", text=f"{text} within {seconds:g} s", remedy=remedy)
    rate = n / max(took, 1e-9)
    return Finding(
        name="store",
        status="ok",
        text=f"{text}: {rate:.0f} images/s, {n_bytes / n / 1000:.0f} kB each",
        figures={"list_seconds": listed, "images_per_second": rate, "bytes_per_image": n_bytes / n},
    )


def _fetch_all(settings: Settings, images: list[NewImage], *, seconds: float) -> tuple[int, int, float]:
    """Return images, bytes and seconds. Raises StoreUnavailable, ImageError."""
    stores = OpenStores(settings)
    deadline = time.perf_counter() + seconds

    def fetch(image: NewImage) -> int:
        return len(
            stores(image.uri, image.root).fetch(image.uri, etag=image.etag, max_bytes=settings.max_image_bytes).data
        )

    first = fetch(images[0])  # opens the connection; without seconds, shows that there is one
    start = time.perf_counter()
    if seconds == 0:
        return 1, first, 0.0
    with ThreadPoolExecutor(settings.fetch_threads) as pool:
        sizes = list(pool.map(lambda image: None if time.perf_counter() > deadline else fetch(image), images))
    in_time = [size for size in sizes if size is not None]
    return len(in_time), sum(in_time), time.perf_counter() - start


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
