"""`scanfleet checks`: the questions that can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from producer.cli.common import Flags, ScanfleetGroup, note
from producer.cli.tables import echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks import Check


@click.group(cls=ScanfleetGroup)
def checks() -> None:
    """List, show and add checks: the question, the answers, and which of them raise a flag.

    \b
    Example:
      scanfleet checks ls
    """


@checks.command("ls")
@click.pass_obj
def list_checks(flags: Flags) -> None:
    """List the checks, built in and added.

    \b
    Example:
      scanfleet checks ls
    """
    from producer.launch import existing_ledger

    with existing_ledger(flags.settings()) as engine:
        found = _all(engine)
    header = ("check", "version", "labels", "flags", "question")
    echo_table(header, [_row(check) for _, check in sorted(found.items())])


@checks.command()
@click.argument("name")
@click.pass_obj
def show(flags: Flags, name: str) -> None:
    """Show a check as TOML: save it to a file to begin one of your own.

    \b
    Example:
      scanfleet checks show overlay > mine.toml
    """
    import tomlkit

    from producer.launch import existing_ledger, find_check

    with existing_ledger(flags.settings()) as engine:
        check = find_check(engine, name)
    click.echo(f"# version {check.hash[:12]}")
    click.echo(tomlkit.dumps(check.as_file()), nl=False)


@checks.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def add(flags: Flags, file: Path) -> None:
    """Store a check file, so that its name stands for it on every machine of the fleet.

    Scans made before keep the version they were made with.

    \b
    Example:
      scanfleet checks add logos.toml
    """
    from scanfleet.checks import load_check
    from scanfleet.errors import BadCheck
    from scanfleet.store.checks import save_check
    from scanfleet.store.engine import transaction

    if file.suffix != ".toml":
        raise BadCheck(f"{file}: a check is a .toml file (`scanfleet checks show overlay` prints an example)")
    check = load_check(str(file))
    with flags.ledger() as engine, transaction(engine) as connection:
        save_check(connection, check, added=True)
    note(f"check {check.name} is version {check.hash[:12]} from now on")


def _all(engine: sa.Engine | None) -> dict[str, Check]:
    from scanfleet.checks import builtin_names, load_check
    from scanfleet.store.checks import list_checks as stored
    from scanfleet.store.engine import reading

    if engine is None:
        return {name: load_check(name) for name in builtin_names()}
    with reading(engine) as connection:
        return stored(connection)


def _row(check: Check) -> tuple[str, ...]:
    few = ", ".join(check.labels[:5]) + (f", ... ({len(check.labels)})" if len(check.labels) > 5 else "")
    return (check.name, check.hash[:12], few, ", ".join(check.flags[:5]) or "-", check.prompt)
