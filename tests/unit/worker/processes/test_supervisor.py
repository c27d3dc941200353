"""`worker score --devices`: processes of the devices, with stand-ins for workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.schema import ledger
from scanfleet.errors import BadSettings
from scanfleet.worker.processes.supervisor import devices_of, per_device_of
from tests.helpers.patience import patient

RUN = """
import sys
from scanfleet.config.settings import load_settings
from scanfleet.worker.processes.supervisor import Supervisor
worker = (sys.executable, "-c", sys.argv[2])
sys.exit(Supervisor(load_settings(), sys.argv[1].split(","), command=worker).run())
"""
# Writes its device and process id, and ends with SIGTERM.
WORKER = """
import os, pathlib, signal, sys
def end(*_): sys.exit(int(os.environ.get("END", "0")))
signal.signal(signal.SIGTERM, end)
with open("starts", "a") as file: file.write(f"{os.environ['SCANFLEET_DEVICE']} {os.getpid()}\\n")
"""
WAITS = WORKER + "while True: signal.pause()\n"


def start(folder: Path, devices: str, worker: str, **more: str) -> subprocess.Popen[bytes]:
    with ledger(load_settings(data_dir=folder)):
        pass
    env = os.environ | {"SCANFLEET_DATA_DIR": str(folder)} | more
    return subprocess.Popen([sys.executable, "-c", RUN, devices, worker], cwd=folder, env=env, stderr=subprocess.PIPE)


def starts(folder: Path, n: int) -> list[tuple[str, int]]:
    """The first n starts of workers."""
    deadline = time.monotonic() + patient(30)
    while True:
        text = (folder / "starts").read_text() if (folder / "starts").exists() else ""
        lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if len(lines) >= n:
            return [(device, int(pid)) for device, pid in lines]
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_one_process_a_device_and_sigterm_reaches_all(tmp_path: Path) -> None:
    running = start(tmp_path, "cpu,cuda:1", WAITS)
    assert sorted(device for device, _ in starts(tmp_path, 2)) == ["cpu", "cuda:1"]
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=patient(30))
    assert running.returncode == 0
    for _, pid in starts(tmp_path, 2):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit code 75", "killed"])
def test_a_process_that_asks_for_it_or_is_killed_is_started_again(tmp_path: Path, how: str) -> None:
    running = start(tmp_path, "cpu", WAITS, END="75" if how == "exit code 75" else "0")
    ((_, pid),) = starts(tmp_path, 1)
    os.kill(pid, signal.SIGTERM if how == "exit code 75" else signal.SIGKILL)
    assert len(starts(tmp_path, 2)) == 2
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=patient(30))
    assert running.returncode == (75 if how == "exit code 75" else 0)


def test_a_refusal_ends_all_with_its_exit_code(tmp_path: Path) -> None:
    refuses = WORKER + "if os.environ['SCANFLEET_DEVICE'] == 'cpu': sys.exit(26)\nwhile True: signal.pause()\n"
    running = start(tmp_path, "cuda:0,cpu", refuses)
    running.communicate(timeout=patient(30))
    assert running.returncode == 26


def test_workers_that_end_in_order_are_not_started_again(tmp_path: Path) -> None:
    running = start(tmp_path, "cpu,cpu", WORKER)
    running.communicate(timeout=patient(30))
    assert running.returncode == 0
    assert len(starts(tmp_path, 2)) == 2


def test_devices_are_read_or_refused() -> None:
    assert devices_of("0, 1") == ["cuda:0", "cuda:1"]
    assert devices_of("cpu,cuda:3") == ["cpu", "cuda:3"]
    assert devices_of("all", count=lambda: 2) == ["cuda:0", "cuda:1"]
    assert per_device_of("auto") == "auto"
    for text in ("", "0,,1", "gpu", "cuda:x"):
        with pytest.raises(BadSettings, match="--devices"):
            devices_of(text)
    with pytest.raises(BadSettings, match="no CUDA device"):
        devices_of("all", count=lambda: 0)
    for text in ("0", "9", "-1", "two"):
        with pytest.raises(BadSettings, match="--processes-per-device"):
            per_device_of(text)
