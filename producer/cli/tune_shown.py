"""What `scanfleet tune` prints: progress on stderr, the front as a table or as JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from producer.cli.common import note, printable, say
from producer.cli.progress import LINE_SECONDS
from producer.cli.tables import count, echo_table


class Progress:
    """A line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._rewrites = sys.stderr.isatty()
        self._told_at = 0.0
        self._width = 0

    def show(self, what: str, done: int, total: int, seconds_left: float | None = None) -> None:
        words = f"{what}: {done} of {total}" if total else what
        words += "" if seconds_left is None else f", {_duration(seconds_left)} left"
        if self._rewrites:
            click.echo(f"\r{words.ljust(self._width)}", err=True, nl=False)
            self._width = len(words)
        elif time.monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = time.monotonic()
            note(words)

    def end(self) -> None:
        if self._rewrites and self._width:
            click.echo(err=True)


def _duration(seconds: float) -> str:
    """
    >>> _duration(42.4), _duration(130)
    ('42 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def show_report(record: dict[str, Any], *, as_json: bool) -> None:
    for words in record["notes"]:
        note(words)
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    images = record["images"]
    tried = count(record["trials"], "setting")
    note(f"{tried} tried on {images['search']['n']} images, judged on {images['held_out']['n']} others")
    rows = [("as it stands", record["standing"]), ("larger budget", record["larger"])]
    rows += [("chosen" if at == record["chosen"] else "candidate", row) for at, row in enumerate(record["front"])]
    header = ("", "cost", record["objective"]["name"], "change", "twice", "setting")
    echo_table(header, [_row(kind, row) for kind, row in rows], below=("setting",))
    say(printable(record["reason"]))


def _row(kind: str, row: dict[str, Any]) -> tuple[str, ...]:
    cost, again = f"{row['cost']:.2f}", f"{row['again']:.0%}"
    return (kind, cost, _interval(row["value"], "{:.3f}"), _interval(row["change"], "{:+.3f}"), again, row["words"])


def _interval(found: dict[str, float | None], form: str) -> str:
    if found["value"] is None:
        return "-"
    value = form.format(found["value"])
    if found["low"] is None or found["high"] is None:
        return value
    return f"{value} [{form.format(found['low'])}, {form.format(found['high'])}]"
