"""Child processes of every parent: the same settings, no secret on a command line, and an end with their parent."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scanfleet import child_process
from scanfleet.child_process import environment, json_lines, module_command
from scanfleet.config.settings import Settings, load_settings

LAUNCHER = """
import signal, subprocess, sys, time
from scanfleet.child_process import spawn
child = spawn((sys.executable, "-c", sys.argv[1]), {}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None)
print(child.pid, child.stdout.readline().decode(), flush=True)
time.sleep(600)
"""
UP = "import signal, sys, time; print('up', flush=True); time.sleep(600)"


def test_examples_in_docstrings() -> None:
    outcome = doctest.testmod(child_process)
    assert outcome.attempted
    assert outcome.failed == 0


def test_every_setting_reaches_a_child_whatever_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "a b.pem"
    pem.touch()
    given = {
        "broker_url": "rediss://:p%40w@h/0",
        "database_url": "postgresql://u:pw@h/d",
        "reader_url": "postgresql://r:pw@h/d",
        "endpoint_url": "https://h/v1",
        "endpoint_key": "hush",
        "endpoint_image_format": "jpeg",
        "endpoint_top_logprobs": 5,
        "endpoint_image_grid": 28,
        "log_level": "debug",
        "log_json": True,
        "precision": "bf16",
        "token_budget": 512,
        "train_on_drift": False,
        "train_synthetic_share": 0.5,
        "stretch_samples": False,
        "s3_client": "boto3",
        "s3_requester_pays": True,
        "https_hosts": "h, *.i:8443",
        "https_private_hosts": "j",
        "webhook_hosts": "k",
        "webhook_private_hosts": "l",
    }
    for name, field in Settings.model_fields.items():
        if name.endswith("_file"):
            given[name] = pem
        elif name not in given:
            kind = str(field.annotation)
            given[name] = 7 if "int" in kind or "float" in kind else f"{tmp_path}/{name}"
    settings = load_settings(**given)
    assert settings.model_fields_set == set(Settings.model_fields)
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    assert not [name for name, value in defaults.items() if getattr(settings, name) == value]

    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_what_nobody_set_is_left_to_the_child_and_the_rest_of_the_environment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANFLEET_BATCH_IMAGES", "5")
    found = environment(load_settings(data_dir=tmp_path).model_copy(update={"model_revision": None}))
    ours = {name: value for name, value in found.items() if name.startswith("SCANFLEET_")}
    assert ours == {"SCANFLEET_DATA_DIR": str(tmp_path), "SCANFLEET_BATCH_IMAGES": "5"}
    assert found["PATH"] == os.environ["PATH"]


def test_a_line_that_a_kill_cut_off_is_dropped() -> None:
    assert list(json_lines([b'{"a": 1}\n', b'{"b": 2}\n', b'{"c"'])) == [{"a": 1}, {"b": 2}]


def test_the_working_directory_is_no_place_for_modules(tmp_path: Path) -> None:
    (tmp_path / "scanfleet.py").write_text("raise SystemExit('not ours')")
    command = module_command("scanfleet.errors")
    assert subprocess.run(command, cwd=tmp_path, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_child_gets_sigterm_when_its_parent_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "terminated"
    leave = f"lambda *_: (pathlib.Path({str(mark)!r}).touch(), sys.exit(0))"
    code = f"import pathlib, signal, sys; signal.signal(signal.SIGTERM, {leave}); {UP}"
    with subprocess.Popen((sys.executable, "-c", LAUNCHER, code), stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid, word = launcher.stdout.readline().split()
        assert word == "up"
        child = psutil.Process(int(pid))
        assert os.getsid(child.pid) == child.pid
        launcher.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from scanfleet.child_process import end_with_parent; end_with_parent(1); print('lives on')"
    found = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (1, "")
