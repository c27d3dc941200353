"""Many real worker processes with the fake model, on Redis and PostgreSQL as the tests start them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from bench.fleet.rig import CHECK, worker_process
from bench.report import Skipped
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.schema import upgrade
from scanfleet.db.tables import Worker
from scanfleet.producer.scans.session import Request, open_session
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

POLL_SECONDS = 0.5
START_SECONDS = 600.0  # for all workers together: on few cores their imports take turns
COUNTED = {"shared_preload_libraries": "pg_stat_statements", "max_connections": "300"}


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the server did in a while."""

    calls: dict[str, int]  # by text: BEGIN, COMMIT and settings are statements, too
    milliseconds: float

    @property
    def n(self) -> int:
        return sum(self.calls.values())


@dataclass(frozen=True, kw_only=True)
class Crowd:
    settings: Settings
    engine: sa.Engine  # of the bench itself
    server: PostgresServer
    pids: dict[str, int]
    stack: ExitStack

    def start(self, n: int) -> None:
        """Start n more workers, and wait until all are ready. The server knows each by a name of its own."""
        before = self.n_ready()
        for number in range(before, before + n):
            name = f"worker-{number}"
            url = f"{self.settings.database}?application_name={name}"
            log = Path(self.settings.data_dir) / f"{name}.log"
            started = worker_process(log, SCANFLEET_DATABASE_URL=url)
            self.pids[name] = self.stack.enter_context(started).pid
        self.until(lambda: self.n_ready() >= before + n)

    def n_ready(self) -> int:
        """Return how many workers have a model and have not stopped."""
        with reading(self.engine) as connection:
            ready = (Worker.stopped_at.is_(None), Worker.progress_at.is_not(None))
            return connection.execute(sa.select(sa.func.count()).select_from(Worker).where(*ready)).scalar_one()

    def enqueue(self, folder: Path, **settings: int) -> str:
        """List a folder as `scanfleet scan` does, and return the scan's id."""
        request = Request(
            sources=(str(folder),), check_names=(CHECK,), model=None, include=(), exclude=(),
            limit=None, sample=None, seed=0, fresh=False,
        )  # fmt: skip
        with open_session(self.settings.model_copy(update=settings)) as session:
            *_, last = session.enqueue(request)
        return last.scan.id

    def statements_of(self, seconds: float) -> Statements:
        """Count what all but the bench itself sends for so long: it reads the counters from another database."""
        with self.server.connect() as counters:
            database = str(self.engine.url.database)
            counters.execute("SELECT pg_stat_statements_reset()")
            time.sleep(seconds)
            query = (
                "SELECT query, sum(calls)::bigint, sum(total_exec_time) FROM pg_stat_statements s"
                " JOIN pg_database d ON d.oid = s.dbid WHERE datname = %s GROUP BY query ORDER BY 2 DESC"
            )
            rows = counters.execute(query, (database,)).fetchall()
        return Statements(calls={row[0]: row[1] for row in rows}, milliseconds=sum(row[2] for row in rows))

    def most_connections(self, seconds: float) -> int:
        """Return the most connections that one worker had at any look during so long."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'worker-%%'"
            " GROUP BY application_name ORDER BY 1 DESC LIMIT 1"
        )
        most, end = 0, time.monotonic() + seconds
        with self.server.connect() as watcher:
            while time.monotonic() < end:
                row = watcher.execute(query, (str(self.engine.url.database),)).fetchone()
                most = max(most, row[0] if row else 0)
                time.sleep(POLL_SECONDS)
        return most

    def until(self, condition: Callable[[], bool], *, seconds: float = START_SECONDS) -> None:
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                raise AssertionError(f"waited {seconds:.0f} s for nothing")
            time.sleep(POLL_SECONDS)


@contextmanager
def crowd(variables: Mapping[str, str]) -> Iterator[Crowd]:
    """Start the servers, and stop them with all workers at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        redis = stack.enter_context(RedisServer())
        postgres = stack.enter_context(PostgresServer(durable=True, settings=COUNTED))
        with postgres.connect() as owner:
            if not owner.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements'").fetchone():
                raise Skipped("PostgreSQL has no pg_stat_statements (Debian: in the package postgresql)")
            owner.execute("CREATE EXTENSION pg_stat_statements")
        environment = {
            "SCANFLEET_DATA_DIR": str(folder),
            "SCANFLEET_DATABASE_URL": postgres.fresh_database(),
            "SCANFLEET_BROKER_URL": redis.url,
            "SCANFLEET_MODEL": "fake",
        }
        os.environ.update(environment)
        os.environ.update(variables)
        settings = load_settings()
        engine = connect(settings)
        stack.callback(engine.dispose)
        upgrade(engine)
        pids = {"postgres": postgres.pid, "redis": redis.pid}
        yield Crowd(settings=settings, engine=engine, server=postgres, pids=pids, stack=stack)
