"""What parents and their child processes share: command line, environment, JSON lines, and a common end.

The decoder child imports this module, so it takes pydantic only where it is needed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanfleet.config.settings import Settings

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def module_command(module: str, *arguments: object) -> tuple[str, ...]:
    """Return the command line that runs a module of ours."""
    # -P: a folder that happens to hold a worker.py and is the working directory must not be run.
    return (sys.executable, "-P", "-m", module, *map(str, arguments))


def spawn(
    command: Sequence[str], env: Mapping[str, str], *, stdin: int, stdout: int | IO[bytes], stderr: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a child that Ctrl-C does not reach. On Linux it gets SIGTERM when the calling thread ends.

    Only for a parent without other threads: the child runs Python code before it becomes `command`.
    """
    on_linux = partial(end_with_parent, os.getpid(), "SIGTERM") if sys.platform == "linux" else None
    return subprocess.Popen(  # noqa: S603
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True, preexec_fn=on_linux
    )


def end_with_parent(parent: int, signal_name: str = "SIGKILL") -> None:
    """In the child: have the kernel send a signal when `parent` (a process id) ends. Does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.Signals[signal_name])
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the line above


def environment(settings: Settings) -> dict[str, str]:
    """Return an environment that gives a child the same settings.

    Settings hold passwords: never pass them on a command line.
    """
    from pydantic import SecretStr

    def text(value: object) -> str:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return str(value).lower() if isinstance(value, bool) else str(value)

    prefix = settings.model_config["env_prefix"]
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return os.environ | {f"{prefix}{name}".upper(): text(value) for name, value in given.items() if value is not None}


def json_lines(stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the object of each line. A last line without its end is dropped: its writer was killed."""
    return (json.loads(line) for line in stream if line.endswith(b"\n"))


def describe_exit(code: int) -> str:
    """Describe how a process ended, by its `returncode`.

    >>> describe_exit(-9), describe_exit(3)
    ('killed by signal 9', 'exit code 3')
    """
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
