"""The services of a run, and the network between them and each worker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect
from scanfleet.db.schema import upgrade
from tests.chaos.archive import MODEL, POISON_PIXEL, TWIN, Item
from tests.chaos.fleet.bucket import ROOT, ArchiveServer
from tests.chaos.fleet.database import RunPostgres
from tests.chaos.fleet.disk import small_disk
from tests.chaos.fleet.proxy import Proxies, Proxy
from tests.chaos.options import Options
from tests.services import PgBouncer, RedisServer
from tests.services.process import Service
from tests.services.tiny_disk import TinyDisk

LEASE_SECONDS = 3.0
FLEET_SETTINGS = {
    "lease_seconds": LEASE_SECONDS,
    "reconcile_seconds": 0.3,
    "renotify_seconds": 2.0,
    "drain_seconds": 2.0,
    "batch_images": 32,
    "batches_in_flight": 2,
    "fetch_threads": 4,
    "fetch_timeout_seconds": 3.0,
}
SERVICES = ("broker", "database", "s3")
DISK_MEGABYTES = {"broker": 128, "database": 512}


@dataclass(frozen=True, kw_only=True)
class RunServices:
    """settings, engine: the run's connections to the services, not through the proxies.

    links: service -> one proxy for each worker, so that a fault can hit one machine or all of them.
    pooler: between the database and the last of the workers; None: all connect to the database.
    disks: of broker and database, where small disks can be mounted.
    down: the services that are stopped at the moment, or must not be touched by another fault.
    """

    folder: Path
    redis: RedisServer
    postgres: RunPostgres
    pooler: PgBouncer | None
    s3: ArchiveServer
    items: Sequence[Item]
    settings: Settings
    engine: sa.Engine
    links: dict[str, list[Proxy]]
    disks: dict[str, TinyDisk]
    setup_seconds: float
    down: set[str] = field(default_factory=set)

    def environment(self, worker: int, options: Options) -> dict[str, str]:
        """Return the environment of one worker process: each address is that of its own proxy."""
        ports = {service: self.links[service][worker].port for service in SERVICES}
        store = f"http://127.0.0.1:{ports['s3']}"
        values = FLEET_SETTINGS | {
            "model": model_of(worker, options),
            "data_dir": self.folder / f"worker-{worker}",
            "broker_url": self.redis.url.replace(f":{self.redis.port}/", f":{ports['broker']}/"),
            "database_url": self.settings.database.replace(f":{self.postgres.port}/", f":{ports['database']}/"),
            "s3_endpoint_url": store,
            "fake_seconds": options.seconds_per_image,
            "fake_poison": ",".join(map(str, POISON_PIXEL)),
        }
        own = {f"SCANFLEET_{name.upper()}": str(value) for name, value in values.items()}
        return os.environ | self.s3.env | own | {"PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL_S3": store}


def model_of(worker: int, options: Options) -> str:
    """The last of several workers serves the other model."""
    return TWIN if worker == options.workers - 1 > 0 else MODEL


@contextmanager
def run_services(options: Options, items: Sequence[Item], *, disks: bool) -> Iterator[RunServices]:
    """Start everything, with the archive in the bucket, and remove it at the end. disks: see `own_mounts`."""
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scanfleet-chaos-")))
        folder.chmod(0o711)  # the database's user reaches its copies
        redis, postgres = RedisServer(), RunPostgres(folder)
        servers: dict[str, Service] = {"broker": redis, "database": postgres}
        small = {
            name: stack.enter_context(small_disk(server.directory, megabytes=DISK_MEGABYTES[name]))
            for name, server in servers.items()
            if disks
        }
        for server in servers.values():
            stack.enter_context(server)
        pooler = stack.enter_context(PgBouncer(postgres)) if options.n_pooled else None
        s3 = stack.enter_context(ArchiveServer(items))
        proxies = stack.enter_context(Proxies())
        targets = {"broker": redis.port, "database": postgres.port, "s3": s3.port}
        links = {name: [proxies.add(port) for _ in range(options.workers)] for name, port in targets.items()}
        if pooler is not None:
            for link in links["database"][-options.n_pooled :]:
                link.target = pooler.port
        settings = load_settings(
            data_dir=folder / "data",
            broker_url=redis.url,
            database_url=postgres.fresh_database(),
            s3_endpoint_url=s3.url,
            model=MODEL,
            **FLEET_SETTINGS,
        )
        os.environ.update(s3.env)  # boto3 in this process: the producer lists the bucket
        engine = connect(settings)
        stack.callback(engine.dispose)
        upgrade(engine)
        yield RunServices(
            folder=folder,
            redis=redis,
            postgres=postgres,
            pooler=pooler,
            s3=s3,
            items=items,
            settings=settings,
            engine=engine,
            links=links,
            disks=small,
            setup_seconds=time.monotonic() - start,
        )
