"""Prints rows of plain values as a table, CSV, JSON or JSONL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from scanfleet.producer.cli.tables import Cell, echo_table

FORMS = ("table", "json", "jsonl", "csv")


def echo_rows(
    names: Sequence[str], rows: Sequence[Sequence[Any]], *, form: str, below: Sequence[str] = ("uri",)
) -> None:
    """Print rows in one of FORMS. below: columns that a narrow terminal shows under their row."""
    from scanfleet.producer.reports.output import target, write_csv

    if form == "table":
        echo_table(names, [[_cell(value) for value in row] for row in rows], below=below)
        return
    records = [dict(zip(names, row, strict=True)) for row in rows]
    with target(None, form=form) as file:
        if form == "csv":
            write_csv(file, names, records)
        elif form == "json":
            file.write(f"{json.dumps(records, indent=2, ensure_ascii=False)}\n".encode())
        else:
            file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n".encode() for record in records)


def form_option(*forms: str) -> Any:
    """--format, of the commands that print rows."""
    choice = click.Choice(list(forms or FORMS))
    return click.option("--format", "form", type=choice, default="table", show_default=True)


def _cell(value: Any) -> Cell:
    """Return a cell of a table: nested values as JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
