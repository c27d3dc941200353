"""What the hub's answers mean: a refused name is for a person to change, an unreachable hub is waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fake_hub import SILENT, fake_hub, hub_environment
from tests.helpers.patience import patient
from tests.services.ports import free_port

LOCATE = """
import sys
from scanfleet.models.errors import ModelError
from scanfleet.models.inputs import sources
sources.SILENT_SECONDS = 0.5
try:
    sources.locate("owner/typo")
except ModelError as error:
    print(type(error).__name__, error)
"""


def located(address: str, home: Path) -> str:
    """The error of a process that looks for owner/typo at a hub: the hub client reads its address at import."""
    process = subprocess.run(
        [sys.executable, "-c", LOCATE],
        env=os.environ | hub_environment(address, home),
        capture_output=True,
        encoding="utf-8",
        timeout=patient(60.0),
        check=True,
    )
    return process.stdout


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "the hub has no owner/typo at revision main; check the name"),
        (404, "RevisionNotFound", "the hub has no owner/typo at revision main; check the name"),
        (404, None, "the hub answers 404 for owner/typo at revision main; check the name"),
        (401, None, "the hub answers 401 for owner/typo at revision main; check the name, and HF_TOKEN"),
        (403, None, "the hub answers 403 for owner/typo"),
        (403, "GatedRepo", "owner/typo is gated"),
    ],
)
def test_a_name_that_a_hub_refuses_is_unknown(tmp_path: Path, status: int, code: str | None, words: str) -> None:
    with fake_hub(status, code=code) as address:
        found = located(address, tmp_path)
    assert found.startswith(f"ModelUnknown {words}")
    assert found.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"", "cannot fetch owner/typo from the hub now: "),
        (503, b"", "cannot fetch owner/typo from the hub now: "),
        (429, b"", "cannot fetch owner/typo from the hub now: "),
        (SILENT, b"", "cannot fetch owner/typo from the hub now: "),
        (200, b"<html>", "cannot fetch owner/typo: no hub answers there: "),
        (200, b"[]", "cannot fetch owner/typo: no hub answers there: "),
    ],
)
def test_a_hub_that_cannot_answer_now_is_waited_for(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    with fake_hub(status, body=body) as address:
        found = located(address, tmp_path)
    assert found.startswith(f"ModelUnavailable {words}")
    assert found.count("\n") == 1


def test_a_hub_that_is_closed_is_waited_for(tmp_path: Path) -> None:
    assert "ModelUnavailable cannot fetch owner/typo from the hub now: " in located(
        f"http://127.0.0.1:{free_port()}", tmp_path
    )
