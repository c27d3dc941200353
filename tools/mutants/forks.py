"""A process that has imported other people's packages once, and forks for each run of pytest: seconds less each.

Reads a line of JSON with `arguments` and `seconds`, answers one with the exit `code` (None: it took too long) and what
was `said`. Runs in a copy of the tree, in the environment of the project, and imports nothing of the project itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile

import pytest

# Not hypothesis and xdist: pytest rewrites their assertions and must be the first to import them.
OTHERS = "alembic boto3 celery kombu numpy PIL psycopg pydantic_settings redis rich simplejpeg sqlalchemy structlog"
HEAVY = "torch transformers peft scipy.stats sklearn.linear_model"


def serve() -> None:
    for name in (OTHERS + " " + HEAVY).split():
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            run = multiprocessing.get_context("fork").Process(
                target=_pytest, args=(request["arguments"], output.fileno())
            )
            run.start()
            assert run.pid is not None
            run.join(request["seconds"])
            code = run.exitcode
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.join()
            output.seek(0)
            said = output.read().decode(errors="replace")
        print(json.dumps({"code": code, "said": said}), file=answers, flush=True)


def _pytest(arguments: list[str], output: int) -> None:
    os.setsid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(int(pytest.main(arguments)))


if __name__ == "__main__":
    serve()
