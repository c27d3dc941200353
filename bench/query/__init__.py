"""What each question of a person costs the server, on an archive of millions of images.

The commands run as a person would run them. PostgreSQL counts the time of their statements, planning included; the
best of three rounds is taken, so that the first one warms the cache.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile

import sqlalchemy as sa

from bench.query.archive import Archive, fill
from bench.query.commands import VIEWS, Command, commands
from bench.query.server import MeasuredServer
from bench.report import Report, seconds
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.producer.cli.main import main

IMAGES = int(os.environ.get("BENCH_IMAGES", "5000000"))
ROUNDS = 3
SLOW_MS = 3000.0  # a command that takes longer is not asked again
READ_ALL = frozenset({"results facets", "results facets --scan big"})  # they read everything, and say so


def run() -> Report:
    with MeasuredServer() as server, tempfile.TemporaryDirectory() as folder:
        url = server.measured_database()
        filled: list[Archive] = []
        taken = seconds(lambda: filled.append(fill(url, IMAGES)))
        print(f"{IMAGES} images written in {taken:.0f} s", file=sys.stderr, flush=True)
        return report(measured(server, url, filled[0], folder))


def report(by_command: dict[str, float]) -> Report:
    """Return the figures of milliseconds by command."""
    answered = {name: taken for name, taken in by_command.items() if name not in READ_ALL}
    return Report(
        name="query",
        figures={"worst_ms": max(answered.values()), "worst": max(answered, key=answered.__getitem__), "by_command": by_command},
        notes=(
            f"{IMAGES} images; milliseconds of all statements of a command at the server, the best of {ROUNDS}",
            f"not in worst_ms, since they read everything: {', '.join(sorted(READ_ALL))}",
        ),
    )


def measured(server: MeasuredServer, url: str, archive: Archive, folder: str) -> dict[str, float]:
    """Return milliseconds at the server by command."""
    os.environ |= {"SCANFLEET_DATABASE_URL": url, "SCANFLEET_DATA_DIR": folder}
    only = os.environ.get("BENCH_ONLY", "")
    asked = {name: [part.replace("FOLDER", folder) for part in given] for name, given in commands(archive).items()}
    found = {name: _best(server, url, name, lambda given=given: _ask(given)) for name, given in asked.items() if only in name}
    engine = connect(load_settings(database_url=url, model="fake"))
    given = {"uri": archive.uri, "small": archive.small, "big": archive.big}
    for name, query in VIEWS.items():
        if only in name:
            found[name] = _best(server, url, name, lambda query=query: _select(engine, query, given))
    engine.dispose()
    return found


def _best(server: MeasuredServer, url: str, name: str, ask: object) -> float:
    best = float("inf")
    for _ in range(int(os.environ.get("ROUNDS", ROUNDS))):
        server.reset(url)
        ask()
        statements = server.statements(url)
        best = min(best, sum(taken for taken, _, _ in statements))
        if best > SLOW_MS:
            break
    print(f"{best:10.1f} ms  {name}", file=sys.stderr, flush=True)
    if best > 50 and os.environ.get("BENCH_TEXT"):
        for taken, calls, text in statements[:6]:
            print(f"    {taken:9.1f} ms {calls} x {' '.join(text.split())[:int(os.environ['BENCH_TEXT'])]}", file=sys.stderr)
    return best


def _ask(given: Command) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(list(given))
    if code not in (0, 2, 17, 25):
        raise RuntimeError(f"{' '.join(given)}: exit code {code}: {told.getvalue()[-500:]}")


def _select(engine: sa.Engine, query: str, given: dict[str, str]) -> None:
    with reading(engine, long=True) as connection:
        connection.execute(sa.text(query), given).all()
