"""The real command as a process, without the person's settings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-P", "-c", "import sys; from scanfleet.producer.cli.main import main; sys.exit(main())")


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """SCANFLEET_* variables for a process: `environment(folder, model="fake")`."""
    own = {f"SCANFLEET_{name.upper()}": value for name, value in settings.items()}
    return os.environ | {"SCANFLEET_DATA_DIR": str(data_dir)} | own


def scanfleet(
    *arguments: str | Path, data_dir: Path, cwd: Path | None = None, timeout: float = 120, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd or data_dir,
        env=environment(data_dir, **settings),
        timeout=timeout,
        check=False,
    )


def start(*arguments: str | Path, data_dir: Path, **settings: str) -> subprocess.Popen[str]:
    """Start a command; the test ends it. It receives Ctrl-C, also where the tests run in a shell's background."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=data_dir,
        env=environment(data_dir, **settings),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
