"""`scanfleet checks`: list, show and add checks."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note
from scanfleet.producer.cli.tables import echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks.check import Check


COLUMNS = ("check", "version", "labels", "flags", "question")


@click.group(cls=ScanfleetGroup)
def checks() -> None:
    """List, show and add checks.

    A check is a question, its possible answers (labels), and which of them raise a flag.

    \b
    Example:
      scanfleet checks ls
    """


@checks.command("ls")
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@click.pass_obj
def list_checks(flags: Flags, form: str) -> None:
    """List the built-in and the added checks.

    \b
    Example:
      scanfleet checks ls
    """
    from scanfleet.producer.scans.session import existing_ledger, known_checks

    with existing_ledger(flags.settings()) as engine:
        found = known_checks(engine)
    if form == "table":
        echo_table(COLUMNS, [_row(check) for check in found], below=COLUMNS[2:])
    else:
        _echo_records([_record(check) for check in found], form)


@checks.command()
@click.argument("name")
@click.pass_obj
def show(flags: Flags, name: str) -> None:
    """Print a check as TOML. Save it to a file to start your own.

    A note says if the adapter that is in use for its name learnt other words, so that the base model answers alone.

    \b
    Example:
      scanfleet checks show overlay > mine.toml
    """
    import tomlkit

    from scanfleet.producer.scans.session import existing_ledger, find_check

    with existing_ledger(flags.settings()) as engine:
        check = find_check(engine, name)
        _note_unused_adapter(engine, check, flags)
    click.echo(f"# version {check.hash[:12]}")
    click.echo(tomlkit.dumps(check.as_file()), nl=False)


@checks.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def add(flags: Flags, file: Path) -> None:
    """Store a check file under its name, for the whole fleet. One of kind multi stores a check for each class.

    Earlier scans keep the version they were made with.

    \b
    Example:
      scanfleet checks add logos.toml
    """
    from scanfleet.checks.multi import load_checks
    from scanfleet.db.engine import transaction
    from scanfleet.db.scans.checks import add_checks
    from scanfleet.errors import BadCheck

    if file.suffix != ".toml":
        raise BadCheck(f"{file}: a check is a .toml file (`scanfleet checks show overlay` prints an example)")
    checks = load_checks(str(file))
    with flags.ledger() as engine:
        with transaction(engine) as connection:
            add_checks(connection, checks)
        for check in checks:
            note(f"check {check.name} is now version {check.hash[:12]}")
            _note_unused_adapter(engine, check, flags)


def _note_unused_adapter(engine: sa.Engine | None, check: Check, flags: Flags) -> None:
    """Note that the adapter in use for the check's name, on the model of the settings, learnt other words."""
    from scanfleet.db.engine import reading
    from scanfleet.producer.training.unused import unused_adapter

    if engine is not None:
        with reading(engine) as connection:
            unused = unused_adapter(connection, check, flags.settings().model)
        if unused is not None:
            note(unused)


def _row(check: Check) -> tuple[str, ...]:
    few = ", ".join(check.labels[:5]) + (f", ... ({len(check.labels)})" if len(check.labels) > 5 else "")
    return (check.name, check.hash[:12], few, ", ".join(check.flags[:5]) or "-", check.prompt)


def _record(check: Check) -> dict[str, Any]:
    values = (check.name, check.hash[:12], list(check.labels), list(check.flags), check.prompt)
    return dict(zip(COLUMNS, values, strict=True))


def _echo_records(records: Sequence[dict[str, Any]], form: str) -> None:
    """Print JSON, JSON lines or CSV; in CSV, a list is JSON text as in exports."""
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in record.items()} for record in records)
    elif form == "json":
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
    else:
        for record in records:
            click.echo(json.dumps(record, ensure_ascii=False))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
