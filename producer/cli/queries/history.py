"""`scanfleet results history`: everything that was ever said of one image."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.queries.filters import as_listed
from scanfleet.producer.cli.queries.rows import form_option
from scanfleet.producer.cli.tables import Cell, echo_table

if TYPE_CHECKING:
    from scanfleet.db.queries.history import Event

HEADER = ("at", "check", "what", "label", "decision", "score", "margin", "by", "stands", "until", "scan")
SECONDS = "%Y-%m-%d %H:%M:%S"


@click.command()
@click.argument("uri")
@form_option("table", "json")
@click.pass_obj
def history(flags: Flags, uri: str, form: str) -> None:
    """Show every answer, failure and label of one image.

    Of all scans and rescans, the oldest first; `stands` marks what the results say now. A failure that was retried is
    no longer known.

    \b
    Example:
      scanfleet results history s3://ads/2026/banner.png
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.history import history_of
    from scanfleet.errors import UnknownName
    from scanfleet.producer.reports.output import escaped

    with flags.ledger(only_reads=True) as engine, reading(engine, long=True) as connection:
        found = history_of(connection, as_listed(uri))
    if found is None:
        raise UnknownName(f"no scan holds {uri}: find names with `scanfleet results ls --prefix TEXT`")
    if form == "json":
        text = json.dumps([_record(event) for event in found], indent=2, ensure_ascii=False)
        click.echo(escaped(text) if sys.stdout.isatty() else text)
        return
    echo_table(HEADER, [_row(event) for event in found], below=("until", "scan", "by"))
    if not found:
        note("no worker has tried this image yet")


def _record(event: Event) -> dict[str, Any]:
    times = {"at": event.at.isoformat(), "until": event.until and event.until.isoformat()}
    return asdict(event) | times


def _row(event: Event) -> tuple[Cell, ...]:
    said = event.label if event.kind != "failure" else f"{event.stage}: {event.reason}"
    until = f"{event.until:%Y-%m-%d %H:%M:%S}" if event.until else None
    figures = (event.decision, event.score, event.margin)
    stands = "yes" if event.stands else "no"
    return (
        f"{event.at:%Y-%m-%d %H:%M:%S}",
        event.check,
        _what(event),
        said,
        *figures,
        _by(event),
        stands,
        until,
        _scan(event),
    )


def _what(event: Event) -> str:
    if event.kind == "label":
        return f"label ({event.label_state})"
    return "copied answer" if event.reused else event.kind


def _by(event: Event) -> str | None:
    """Return who said it: a person, an adapter, or the base model alone."""
    if event.kind == "answer":
        return event.mode or "base" if event.adapter_id is None else f"adapter {event.adapter_id}"
    return event.who


def _scan(event: Event) -> str | None:
    return event.scan if event.by_scan in (None, event.scan) else f"{event.scan} by {event.by_scan}"
