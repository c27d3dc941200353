"""The services of a run, and the network between them and each worker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect
from scanfleet.db.schema import upgrade
from tests.chaos.archive import POISON_PIXEL
from tests.chaos.bucket import ROOT, ArchiveServer
from tests.chaos.options import Options
from tests.chaos.proxy import Proxies, Proxy
from tests.services import PostgresServer, RedisServer

LEASE_SECONDS = 3.0
FLEET_SETTINGS = {
    "model": "fake",
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


@dataclass(frozen=True, kw_only=True)
class RunServices:
    """settings, engine: the run's connections to the services, not through the proxies.

    links: service -> one proxy for each worker, so that a fault can hit one machine or all of them.
    down: the services that are stopped at the moment.
    """

    folder: Path
    redis: RedisServer
    postgres: PostgresServer
    s3: ArchiveServer
    settings: Settings
    engine: sa.Engine
    links: dict[str, list[Proxy]]
    setup_seconds: float
    down: set[str] = field(default_factory=set)

    def environment(self, worker: int, options: Options) -> dict[str, str]:
        """Return the environment of one worker process: each address is that of its own proxy."""
        ports = {service: self.links[service][worker].port for service in SERVICES}
        store = f"http://127.0.0.1:{ports['s3']}"
        values = FLEET_SETTINGS | {
            "data_dir": self.folder / f"worker-{worker}",
            "broker_url": self.redis.url.replace(f":{self.redis.port}/", f":{ports['broker']}/"),
            "database_url": self.settings.database.replace(f":{self.postgres.port}/", f":{ports['database']}/"),
            "s3_endpoint_url": store,
            "fake_seconds": options.seconds_per_image,
            "fake_poison": ",".join(map(str, POISON_PIXEL)),
        }
        own = {f"SCANFLEET_{name.upper()}": str(value) for name, value in values.items()}
        return os.environ | self.s3.env | own | {"PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL_S3": store}


@contextmanager
def run_services(options: Options) -> Iterator[RunServices]:
    """Start everything, with the archive in the bucket, and remove it at the end."""
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scanfleet-chaos-")))
        redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        archive = ArchiveServer(images=options.images, seed=options.seed, poison=options.n_poison)
        s3 = stack.enter_context(archive)
        proxies = stack.enter_context(Proxies())
        targets = dict(zip(SERVICES, (redis.port, postgres.port, s3.port), strict=True))
        settings = load_settings(
            data_dir=folder / "data",
            broker_url=redis.url,
            database_url=postgres.fresh_database(),
            s3_endpoint_url=s3.url,
            **{name: value for name, value in FLEET_SETTINGS.items() if name != "data_dir"},
        )
        os.environ.update(s3.env)  # boto3 in this process: the producer lists the bucket
        engine = connect(settings)
        stack.callback(engine.dispose)
        upgrade(engine)
        yield RunServices(
            folder=folder,
            redis=redis,
            postgres=postgres,
            s3=s3,
            settings=settings,
            engine=engine,
            links={name: [proxies.add(port) for _ in range(options.workers)] for name, port in targets.items()},
            setup_seconds=time.monotonic() - start,
        )
