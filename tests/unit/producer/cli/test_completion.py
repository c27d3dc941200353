"""Shell completion, in a real bash, and the command that turns it on."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from scanfleet.producer.cli.completion import TURN_ON, VARIABLE
from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import COMMAND, environment

PRESS_TAB = """
press_tab() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _scanfleet_completion scanfleet
    echo "${COMPREPLY[@]}"
}
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_choices_and_checks_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "data").mkdir()
    program = tmp_path / "bin" / "scanfleet"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    lines = (
        f'eval "$({VARIABLE}=bash_source scanfleet)"',
        PRESS_TAB,
        "press_tab scanfleet sc",
        "press_tab scanfleet adapters pu",
        "press_tab scanfleet results ls --format j",
        "press_tab scanfleet scan photos --check overlay-",
    )
    answer = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=tmp_path / "data",
        env=environment(tmp_path / "data") | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=120,
        check=True,
    )
    assert answer.stdout.splitlines() == ["scan scans score", "push pull", "json jsonl", "overlay-once overlay-steps"]
    assert answer.stderr == ""
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("shell", TURN_ON)
def test_every_shell_gets_a_function_and_the_line_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"{shell}_source")
    source = scanfleet(data_dir=tmp_path)
    monkeypatch.delenv(VARIABLE)
    line = scanfleet("completion", shell, data_dir=tmp_path)
    assert "_scanfleet_completion" in source.stdout
    assert (line.returncode, line.stdout) == (0, f"{TURN_ON[shell][1]}\n")
    assert TURN_ON[shell][0] in line.stderr


def test_the_shell_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/opt/bin/zsh")
    assert "zsh_source" in scanfleet("completion", data_dir=tmp_path).stdout
    monkeypatch.setenv("SHELL", "/bin/dash")
    answer = scanfleet("completion", data_dir=tmp_path)
    assert (answer.returncode, answer.stdout) == (click.UsageError.exit_code, "")
    assert "bash, zsh, fish" in answer.stderr
