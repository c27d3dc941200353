"""Assumptions of the containers, with the real broker: the worker's health check and Valkey's own options."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
import yaml

from tests.services import RedisServer
from tests.services.ports import free_port

DOCKER = Path(__file__).parents[3] / "docker"
WORKER = """
from scanfleet.queue.app import make_app
from scanfleet.config.settings import load_settings
app = make_app(load_settings())
app.worker_main(["worker", "--pool=threads", "--concurrency=1", "--queues=train", "--without-mingle"])
"""


@contextmanager
def _worker(url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "SCANFLEET_BROKER_URL": url}
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        try:
            yield run
        finally:
            run.kill()


def _check_health(url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SCANFLEET_BROKER_URL": url}
    command = [sys.executable, str(DOCKER / "healthcheck.py"), "3"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_worker_is_healthy_while_it_answers_and_unhealthy_after(redis_url: str) -> None:
    with _worker(redis_url) as worker:
        # The first check may come before the worker listens, as in a container's start period.
        checks = (_check_health(redis_url) for _ in range(10))
        assert any(check.returncode == 0 for check in checks), "ten checks of 3 s each found no worker"
        assert worker.poll() is None
    after = _check_health(redis_url)
    assert after.returncode == 1
    assert "no worker on" in after.stderr
    assert len(after.stderr.splitlines()) == 1


def test_valkey_takes_the_options_of_compose_and_its_password_from_no_argument() -> None:
    with ValkeyOfCompose() as server, server.client() as client:
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert "recognisable" not in " ".join(psutil.Process(server.pid).cmdline())


class ValkeyOfCompose(RedisServer):
    """The server as compose.yaml starts it, by the program that is installed here."""

    def __init__(self) -> None:
        super().__init__(port=free_port(), password="recognisable")

    def launched(self, command: list[str]) -> list[str]:
        return ["env", f"REDISCLI_AUTH={self.password}", *super().launched(command)]

    def command(self) -> list[str]:
        service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["valkey"]
        shell, flag, script = service["command"]
        where = f"{self.program} - --port {self.port} --bind 127.0.0.1 --dir {self.directory}"
        return [shell, flag, script.replace("docker-entrypoint.sh valkey-server -", where).replace("$$", "$")]
