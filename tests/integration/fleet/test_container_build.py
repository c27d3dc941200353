"""The images of docker/Dockerfile, built and started: user, read-only root, locked versions, what must not be there."""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.container_engine import ROOT, Engine, Image, container_engine
from tests.services import ServiceMissingError

pytestmark = pytest.mark.slow

USER = "10001"
FOUND = "['scanfleet.producer']\n"
FIND = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        with container_engine() as engine:
            yield engine
    except ServiceMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def producer(engine: Engine) -> Image:
    return engine.build("producer")


@pytest.fixture(scope="module")
def worker(engine: Engine) -> Image:
    return engine.build("worker")


def said(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def not_locked(image: Image) -> list[str]:
    """What is installed in another version than constraints.txt has."""
    locked = re.findall(r"^([a-z0-9.-]+==[^ ;\n]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    freeze = said(image.run("python", "-m", "pip", "freeze", "--exclude=scanfleet")).splitlines()
    found = [line.partition("+")[0] for line in freeze]  # torch==2.13.0+cpu
    assert len(found) > 20
    return [line for line in found if line.lower().replace("_", "-") not in locked]


def test_the_producer_works_on_a_root_that_it_cannot_write(producer: Image) -> None:
    assert said(producer.run("id", "-u")).strip() == said(producer.run("id", "-g")).strip() == USER
    assert producer.run("touch", "/opt/scanfleet/x", "/home/scanfleet/x").stderr.count("Read-only") == 2
    assert "scan" in said(producer.run(*producer.config["Entrypoint"], *producer.config["Cmd"]))
    made = said(producer.run("sh", "-euc", "scanfleet db upgrade; scanfleet db check; ls"))
    assert "scanfleet.db" in made.split()
    assert "overlay" in said(producer.run("scanfleet", "checks", "ls"))


def test_the_producer_has_neither_torch_nor_the_worker(producer: Image) -> None:
    assert (
        said(producer.run("python", "-c", FIND, "scanfleet.producer", "torch", "scanfleet.worker", "scanfleet.models"))
        == FOUND
    )
    assert not_locked(producer) == []


def test_the_worker_starts_up_to_its_entry_point(worker: Image) -> None:
    assert said(worker.run("id", "-u")).strip() == USER
    start = [*worker.config["Entrypoint"], *worker.config["Cmd"]]
    assert start == ["scanfleet", "worker", "score"]
    assert "--model" in said(worker.run(*start, "--help"))
    said(worker.run("python", "-W", "error", "-c", "import torch, transformers, scanfleet.worker, scanfleet.models"))
    assert not_locked(worker) == []
    assert "no worker on" in worker.run(*worker.config["Healthcheck"]["Test"][1:], "1").stderr


def test_both_stop_at_sigterm_and_name_by_number_the_user_who_owns_the_data(producer: Image, worker: Image) -> None:
    for image in (producer, worker):
        assert str((image.root / "var/lib/scanfleet").stat().st_uid) == USER
        assert (image.config["User"], image.config["StopSignal"]) == (f"{USER}:{USER}", "SIGTERM")
