"""`scanfleet results sql`: a question in SQL."""

from __future__ import annotations

import math
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.queries.rows import echo_rows, form_option


@click.command()
@click.argument("query", metavar="SQL|-")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop after this time.",
)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Most rows to show.")
@form_option()
@click.pass_obj
def sql(flags: Flags, query: str, timeout: float, limit: int, form: str) -> None:
    """Answer one SELECT from the database. It can only read.

    - reads the SQL from stdin. On PostgreSQL it runs as the login of the setting reader_url.

    \b
    Example:
      scanfleet results sql "select state, count(*) from images group by state"
    """
    from scanfleet.db.queries.sql import ask

    text = _stdin() if query == "-" else query
    settings = flags.settings()
    if settings.reader is None:
        with flags.ledger(only_reads=True):  # is it there, and has it the tables of this version?
            pass
    found = ask(settings, text, seconds=timeout, limit=limit)
    rows = [[_plain(value) for value in row] for row in found.rows]
    echo_rows(found.names, rows, form=form)
    if found.more:
        note(f"only the first {limit} rows are shown: --limit shows more")


def _stdin() -> str:
    from scanfleet.errors import BadQuery

    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise BadQuery("SQL: what stdin holds is no UTF-8") from None


def _plain(value: Any) -> Any:
    """Return a value of a database as JSON knows it."""
    match value:
        case Decimal() if value.is_finite():
            return int(value) if value == value.to_integral_value() else float(value)
        case float() if not math.isfinite(value):
            return str(value)
        case bytes():
            return value.hex()
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case None | bool() | int() | float() | str():
            return value
    return str(value)
