"""What each question of a person costs the server, on an archive of millions of images.

The commands run as a person would run them. PostgreSQL counts the time of their statements, planning included; the
best of three rounds is taken, so that the first one warms the cache. Beside other work on the machine the clock says
little: the processor's time, of the backend alone, is counted as well.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from bench.query.archive import Archive, fill
from bench.query.commands import VIEWS, Command, commands
from bench.query.server import MeasuredServer
from bench.report import Report, seconds
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.producer.cli.main import main

IMAGES = int(os.environ.get("BENCH_IMAGES", "5000000"))
ONLY = os.environ.get("BENCH_ONLY", "")  # commands with this text in their names
ROUNDS = 3
SLOW_MS = 3000.0  # a command that takes longer is not asked again
EMPTY = (2, 17)  # exit codes: nothing to compare, no such image
READ_ALL = ("scans report big", "results facets", "results facets --scan big", "drift", "drift --scan big")


class Cost(NamedTuple):
    """Milliseconds at the server: by the clock, and of the processor for the backend alone."""

    ms: float
    cpu_ms: float


def run() -> Report:
    with MeasuredServer() as server, tempfile.TemporaryDirectory() as folder:
        url = server.measured_database()
        filled: list[Archive] = []
        taken = seconds(lambda: filled.append(fill(url, IMAGES)))
        print(f"{IMAGES} images written in {taken:.0f} s", file=sys.stderr, flush=True)
        found: dict[str, Cost] = {}
        for name, cost in measured(server, url, filled[0], folder):
            found[name] = cost
            print(f"{cost.ms:10.1f} ms {cost.cpu_ms:10.1f} ms of processor  {name}", file=sys.stderr, flush=True)
    return report(found)


def report(found: dict[str, Cost]) -> Report:
    searched = {name: cost for name, cost in found.items() if name not in READ_ALL}
    figures = {
        "worst_ms": max(cost.ms for cost in searched.values()),
        "worst_cpu_ms": max(cost.cpu_ms for cost in searched.values()),
        "by_command": {name: cost.ms for name, cost in found.items()},
        "cpu_by_command": {name: cost.cpu_ms for name, cost in found.items()},
    }
    notes = (
        f"{IMAGES} images; milliseconds of all statements of a command at the server, the best of {ROUNDS}",
        f"not among the worst, since they read a whole scan or archive: {', '.join(READ_ALL)}",
    )
    return Report(name="query", figures=figures, notes=notes)


def measured(server: MeasuredServer, url: str, archive: Archive, folder: str) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each command, and of each look-up in a view."""
    os.environ |= {"SCANFLEET_DATABASE_URL": url, "SCANFLEET_DATA_DIR": folder}
    for name, given in commands(archive).items():
        if ONLY in name:
            asked = [part.replace("FOLDER", folder) for part in given]
            yield name, _best(server, url, lambda asked=asked: _ask(asked))  # type: ignore[misc]
    engine = connect(load_settings(database_url=url, model="fake"))
    values = {"uri": archive.uri, "small": archive.small, "big": archive.big}
    for name, query in VIEWS.items():
        if ONLY in name:
            yield name, _best(server, url, lambda query=query: _select(engine, query, values))  # type: ignore[misc]
    engine.dispose()


def _best(server: MeasuredServer, url: str, ask: Callable[[], None]) -> Cost:
    found = Cost(ms=math.inf, cpu_ms=math.inf)
    for _ in range(ROUNDS):
        server.reset(url)
        ask()
        spent = Cost(ms=sum(taken for taken, _, _ in server.statements(url)), cpu_ms=server.cpu_ms())
        found = Cost(*map(min, found, spent))
        if found.ms > SLOW_MS:
            break
    return found


def _ask(given: Command | list[str]) -> None:
    said, told = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = main(list(given))
    if code not in (0, *EMPTY):
        told.seek(0)
        raise RuntimeError(f"{' '.join(given)}: exit code {code}: {told.read()[-500:]}")


def _select(engine: sa.Engine, query: str, values: dict[str, str]) -> None:
    with reading(engine, long=True) as connection:
        connection.execute(sa.text(query), values).all()
