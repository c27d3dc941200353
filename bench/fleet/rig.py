"""A whole fleet on this machine: S3, Redis and PostgreSQL as the tests start them, and one real worker process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.scans import scans
from scanfleet.db.schema import upgrade
from scanfleet.db.tallies.scan_sums import times_of_scan
from scanfleet.producer.scans.session import Request, open_session
from scanfleet.stats.stage_times import StageTimes
from tests.services.postgres import PostgresServer
from tests.services.process import LAUNCHER
from tests.services.redis import RedisServer
from tests.services.s3 import Bucket
from tests.services.seaweed import SeaweedServer

CHECK = "overlay"
POLL_SECONDS = 0.2
UPLOADS = 4  # at once
WORKER = ("-m", "scanfleet.worker", "score")


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """A finished scan; seconds: from the start of the listing to the commit of the last batch."""

    n_images: int
    seconds: float
    times: StageTimes

    @property
    def images_per_s(self) -> float:
        return self.n_images / self.seconds


@dataclass(frozen=True, kw_only=True)
class Fleet:
    settings: Settings
    engine: sa.Engine
    bucket: Bucket
    pids: dict[str, int]  # by kind of process

    def put(self, prefix: str, files: Sequence[bytes]) -> str:
        """Upload files as s3://bucket/prefix/0000000 and so on; return the address of the prefix."""
        with ThreadPoolExecutor(UPLOADS) as threads:
            names = (f"{prefix}/{number:07}.jpg" for number in range(len(files)))
            for _ in threads.map(self.bucket.put, names, files):
                pass
        return self.bucket.uri(prefix + "/")

    def scan(self, source: str) -> Scanned:
        """Enqueue a source as `scanfleet scan` does, and wait until all of it is scored."""
        start = time.perf_counter()
        scan_id = self.enqueue(source)
        done = self.wait(scan_id)
        seconds = time.perf_counter() - start
        with reading(self.engine) as connection:
            times = times_of_scan(connection, scan_id)
        return Scanned(n_images=done.n_images, seconds=seconds, times=times)

    def wait(self, scan_id: str) -> scans.Progress:
        """Wait until every image has a verdict of its own."""
        while (done := self.progress(scan_id)).n_pending:
            time.sleep(POLL_SECONDS)
        if done.n_verdicts != done.n_images or done.n_reused:
            raise AssertionError(f"{done.n_images} images, {done.n_verdicts} verdicts, {done.n_reused} reused")
        return done

    def enqueue(self, source: str) -> str:
        """List, write and notify while the worker starts on it, and return the scan's id."""
        request = Request(
            sources=(source,),
            check_names=(CHECK,),
            model=None,
            include=(),
            exclude=(),
            limit=None,
            sample=None,
            seed=0,
            fresh=False,
        )
        with open_session(self.settings) as session:
            *_, last = session.enqueue(request)
        return last.scan.id

    def n_scored(self, source: str) -> int:
        """Return the verdicts of the scan over a source; 0 before it begins. Its listing may still run."""
        with reading(self.engine) as connection:
            found = [scan for scan in scans.list_scans(connection, limit=1) if source in scan.sources]
            return sum(scans.progress(connection, scan.id).n_verdicts for scan in found)

    def progress(self, scan_id: str) -> scans.Progress:
        with reading(self.engine) as connection:
            return scans.progress(connection, scan_id)


@contextmanager
def fleet(*, token_budget: int, model: str = "pocket", command: Sequence[str] = WORKER) -> Iterator[Fleet]:
    """Start servers and worker, and stop them at the end. The worker has default settings except for its budget.

    command: what Python runs as the worker.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        s3, redis = stack.enter_context(SeaweedServer()), stack.enter_context(RedisServer())
        postgres = stack.enter_context(PostgresServer(durable=True))
        os.environ.update(s3.env)  # for the producer in this process; the worker inherits it
        environment = {
            "SCANFLEET_DATA_DIR": str(folder),
            "SCANFLEET_DATABASE_URL": postgres.fresh_database(),
            "SCANFLEET_BROKER_URL": redis.url,
            "SCANFLEET_S3_ENDPOINT_URL": s3.url,
            "SCANFLEET_MODEL": model,
            "SCANFLEET_TOKEN_BUDGET": str(token_budget),
        }
        os.environ.update(environment)
        settings = load_settings()
        engine = connect(settings)
        stack.callback(engine.dispose)
        upgrade(engine)
        bucket = s3.make_bucket("bench")
        worker = stack.enter_context(worker_process(folder / "worker.log", command))
        pids = {"worker": worker.pid, "s3": s3.pid, "postgres": postgres.pid, "redis": redis.pid}
        yield Fleet(settings=settings, engine=engine, bucket=bucket, pids=pids)


@contextmanager
def worker_process(log: Path, arguments: Sequence[str] = WORKER, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a score worker inside the block, with this process's environment and these variables. It ends with us."""
    with log.open("wb") as stream:
        command = [sys.executable, *arguments]
        ending_with_us = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "--", *command]
        environment = os.environ | variables
        process = subprocess.Popen(
            ending_with_us, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.returncode:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
