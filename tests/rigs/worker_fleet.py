"""Real worker processes on one ledger and one broker, for tests that kill, stop and freeze them."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.scans import scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import Progress
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.models.fake import FakeScorer
from scanfleet.queue.app import make_app
from scanfleet.storage.folder import FolderStore
from scanfleet.worker.scoring.factory import question_of
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient
from tests.rigs.worker_rig import add_scan, png

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0


class WorkerProcess:
    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scanfleet.worker", "score"],
                env=environment,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 60) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(timeout)


class Fleet:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.settings: Settings = load_settings(data_dir=folder / "data", model="fake", **settings)
        self.engine = connect(self.settings)
        upgrade(self.engine)
        self.workers: list[WorkerProcess] = []
        self._environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "SCANFLEET_DATA_DIR": str(self.settings.data_dir),
            "SCANFLEET_MODEL": "fake",
            "SCANFLEET_DATABASE_URL": self.settings.database,
            **{f"SCANFLEET_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def start(self, *, seconds_per_image: float = 0.0, **settings: Any) -> WorkerProcess:
        """Start another worker without waiting for it."""
        own = {f"SCANFLEET_{name.upper()}": str(value) for name, value in settings.items()}
        environment = self._environment | own | {"SCANFLEET_FAKE_SECONDS": str(seconds_per_image)}
        worker = WorkerProcess(environment, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def scan(self, n_images: int, *, batch_images: int = 8) -> str:
        self.archive.mkdir(exist_ok=True)
        for number in range(n_images):
            (self.archive / f"{number}.png").write_bytes(png(number))
        listed = FolderStore(self.archive).list(str(self.archive))
        images = [NewImage(uri=info.uri, root=str(self.archive), etag=info.etag) for info in listed]
        return add_scan(self.engine, images, batch_images=batch_images)

    def send(self, name: str, *args: Any, **fields: Any) -> None:
        """Send any message to the workers' queue."""
        from kombu import Queue

        from scanfleet.messages import score_queue

        with make_app(self.settings) as app:
            app.send_task(name, args=args, kwargs=fields, queue=Queue(score_queue("fake")))

    def progress(self, scan_id: str) -> Progress:
        with reading(self.engine) as connection:
            return scans.progress(connection, scan_id)

    def count(self, table: type, *where: sa.ColumnElement[bool]) -> int:
        with reading(self.engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()

    def until(self, condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > patient(seconds):
                logs = "\n".join(f"--- {worker.log_path.name}\n{worker.log[-3000:]}" for worker in self.workers)
                raise AssertionError(f"waited {time.monotonic() - start:.0f} s for nothing:\n{logs}")
            time.sleep(POLL_SECONDS)

    def until_scored(self, scan_id: str, n: int) -> None:
        """Wait until at least `n` images of a scan have a verdict."""
        self.until(lambda: self.progress(scan_id).n_verdicts >= n)

    def until_leased(self, n: int = 1) -> None:
        self.until(lambda: self.count(Batch, Batch.state == "leased") >= n)

    def until_done(self, scan_id: str) -> None:
        self.until(lambda: self.count(Scan, Scan.id == scan_id, Scan.state == "done") == 1)

    def assert_complete(self, scan_id: str, n_images: int) -> None:
        """Every image has exactly one verdict, equal to that of a run without faults."""
        assert self.count(Image, Image.scan_id == scan_id, Image.state == "verdict") == n_images
        assert self.count(Verdict, Verdict.scan_id == scan_id) == n_images
        progress = self.progress(scan_id)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (n_images, 0, 0)
        query = sa.select(Image.uri, Verdict.margin).join(Verdict, Verdict.id == Image.verdict_id)
        with reading(self.engine) as connection:
            found = {row.uri: row.margin for row in connection.execute(query.where(Image.scan_id == scan_id))}
        assert found == self.expected()

    def expected(self) -> dict[str, float]:
        scorer = FakeScorer(question=question_of(load_check("overlay")))
        margins = {}
        for path in self.archive.iterdir():
            with PillowImage.open(path) as image:
                margins[str(path)] = scorer.score([scorer.prepare(image.convert("RGB"))])[0].margin
        return margins

    def freeze(self, worker: WorkerProcess) -> None:
        """SIGSTOP, but not inside a transaction on SQLite, whose only write lock would stay taken."""
        while True:
            worker.signal(signal.SIGSTOP)
            if self.engine.dialect.name != "sqlite" or self._can_write():
                return
            worker.signal(signal.SIGCONT)
            time.sleep(POLL_SECONDS)

    def _can_write(self) -> bool:
        with closing(sqlite3.connect(str(self.engine.url.database), timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGKILL)
                worker.process.wait()
        self.engine.dispose()


@contextmanager
def fleet(folder: Path, **settings: Any) -> Iterator[Fleet]:
    quick: dict[str, Any] = {
        "lease_seconds": 3.0,
        "reconcile_seconds": 0.3,
        "renotify_seconds": 2.0,
        "drain_seconds": 20.0,
        "batches_in_flight": 2,
        "fetch_threads": 2,
    }
    made = Fleet(folder, **(quick | settings))
    try:
        yield made
    finally:
        made.close()
