"""A whole fleet with recognisable secrets, and everything that can go wrong with a secret: none of them shows anywhere.

Looked through: what commands and workers print, all log files, the arguments of every process, the environment of
processes that need none of it, and every text in the database.
"""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.scans import scans
from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import scanfleet as in_process_of_its_own
from tests.helpers.cli_process import start
from tests.helpers.migrated import upgraded
from tests.rigs.worker_rig import png
from tests.services import Bucket, PostgresServer, RedisServer

BROKER = "br0ker/pass@word"
DATABASE = "d4tabase/pass@word"
AWS = "aws+secret/recognisable"
SIGNATURE = "51gnature0f4presigned"
SECRETS = {
    form for secret in (BROKER, DATABASE, AWS, SIGNATURE, "wr0ng-passw0rd") for form in (secret, quote(secret, safe=""))
}
END_SECONDS = 60.0


class Watch:
    """Reads the command line of every process again and again, and the environment of decoder children."""

    def __init__(self) -> None:
        self.arguments: set[str] = set()
        self.decoders: dict[int, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._over.wait(0.05):
            for process in psutil.process_iter():
                try:
                    line = " ".join(process.cmdline())
                    self.arguments.add(line)
                    if "scanfleet.decoding.child" in line and process.pid not in self.decoders:
                        self.decoders[process.pid] = json.dumps(process.environ())
                except psutil.Error:
                    continue  # ended meanwhile


def found_in(text: str) -> set[str]:
    return {secret for secret in SECRETS if secret in text}


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with RedisServer(password=BROKER) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer, pg_empty_url: str) -> Iterator[str]:
    """A user whose password must be percent-encoded in a URL; owner of an empty database."""
    name = pg_empty_url.rpartition("/")[2]
    user = f"user_{name}"
    with postgres_server.connect(name) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{DATABASE}'")  # type: ignore[call-overload]
        connection.execute(f"ALTER DATABASE {name} OWNER TO {user}")  # type: ignore[call-overload]
        connection.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
    yield f"postgresql://{user}:{quote(DATABASE, safe='')}@127.0.0.1:{postgres_server.port}/{name}"
    with postgres_server.connect(name) as connection:
        connection.execute(f"REASSIGN OWNED BY {user} TO CURRENT_USER")  # type: ignore[call-overload]
        connection.execute(f"DROP OWNED BY {user}")  # type: ignore[call-overload]
        connection.execute(f"DROP ROLE {user}")  # type: ignore[call-overload]


def manifest(folder: Path, bucket: Bucket) -> Path:
    """Images that are there, one of a bucket that refuses, and a presigned address in another column."""
    signed = f"https://{bucket.name}.s3.amazonaws.com/a.png?X-Amz-Credential=x&X-Amz-Signature={SIGNATURE}"
    uris = [bucket.put(f"{number}.png", png(number)) for number in range(6)] + ["s3://no-such-bucket-at-all/a.png"]
    path = folder / "images.jsonl"
    path.write_text("".join(json.dumps({"uri": uri, "page": signed}) + "\n" for uri in uris))
    return path


def every_text(url: str, folder: Path) -> str:
    engine = connect(load_settings(data_dir=folder, database_url=url))
    tables = sa.MetaData()
    with reading(engine) as connection:
        tables.reflect(connection)
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
    engine.dispose()
    assert len(rows) > 10
    return "\n".join(rows)


@pytest.mark.slow
def test_no_secret_of_a_fleet_shows_anywhere(
    tmp_path: Path, broker: RedisServer, database_url: str, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS)
    upgraded(load_settings(data_dir=tmp_path, database_url=database_url))
    outputs: list[str] = []
    fleet = {
        "database_url": database_url,
        "broker_url": broker.url,
        "s3_endpoint_url": s3_bucket.endpoint_url,
        "model": "fake",
        "log_level": "debug",
        "lease_seconds": "3",
        "reconcile_seconds": "0.3",
    }

    def run(*arguments: str | Path, own: bool = False, **changes: str) -> subprocess.CompletedProcess[str]:
        done = (in_process_of_its_own if own else scanfleet)(*arguments, data_dir=tmp_path, **(fleet | changes))
        outputs.append(done.stdout + done.stderr)
        return done

    images = manifest(tmp_path, s3_bucket)
    signed = tmp_path / "signed.txt"
    signed.write_text(f"https://b/a.jpg?X-Amz-Signature={SIGNATURE}\n")
    with Watch() as watch:
        worker = start("worker", "score", data_dir=tmp_path, **fleet)
        try:
            scan = run("scan", images, "--check", "overlay", own=True).stdout.strip()
            assert scan
            _until_scored(database_url, tmp_path, scan, 6)
            broker.kill()  # a worker without its broker, and a producer that cannot notify
            assert run("scan", images, "--check", "baggage").returncode == 0
            broker.start()
            assert run("scan", signed, "--check", "overlay").returncode == 12
            wrong = database_url.replace(quote(DATABASE, safe=""), "wr0ng-passw0rd")
            assert run("scans", "ls", database_url=wrong).returncode == 10
            assert run("scans", "ls", database_url=database_url.replace("127.0.0.1:", "127.0.0.1:x")).returncode == 10
            assert run("scan", images, "--check", "overlay", broker_url=broker.url + "?x=1").returncode == 10
            refused = broker.url.replace(quote(BROKER, safe=""), "wr0ng-passw0rd")
            assert run("worker", "score", own=True, broker_url=refused).returncode == 10
            for command in (("scans", "show", scan), ("scans", "errors", scan), ("results", "export"), ("scans", "ls")):
                run(*command)
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(END_SECONDS)
            finally:
                worker.kill()
                outputs.append("".join(worker.communicate()))
        run("scans", "cancel", scan)  # it waits for the bucket that is not there
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(png(99))
        assert (
            run("run", tmp_path / "photos", "--check", "flowers", own=True).returncode == 0
        )  # its worker logs to a file
    texts = {
        "outputs": "\n".join(outputs),
        "files": "\n".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log")),
        "arguments": "\n".join(watch.arguments),
        "environment of decoders": "\n".join(watch.decoders.values()),
        "database": every_text(database_url, tmp_path),
    }
    assert "worker_ready" in texts["outputs"]
    assert "batch_written" in texts["files"]
    assert "scanfleet" in texts["arguments"]
    assert texts["environment of decoders"]
    assert s3_bucket.name in texts["database"]
    assert {place: found_in(text) for place, text in texts.items() if found_in(text)} == {}


def _until_scored(url: str, folder: Path, scan: str, n: int) -> None:
    engine = connect(load_settings(data_dir=folder, database_url=url))
    deadline = time.monotonic() + END_SECONDS
    try:
        while time.monotonic() < deadline:
            with reading(engine) as connection:
                if scans.progress(connection, scan).n_verdicts >= n:
                    return
            time.sleep(0.1)
    finally:
        engine.dispose()
    raise AssertionError("the worker scores nothing")
