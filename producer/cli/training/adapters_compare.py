"""`scanfleet adapters compare`: run the gate on two adapters."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, note, printable

if TYPE_CHECKING:
    from scanfleet.config.settings import Settings

BASE = "base"


@click.command()
@click.argument("adapter_id", metavar="A", type=int)
@click.argument("against", metavar="[B]", required=False)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def compare(flags: Flags, /, *, adapter_id: int, against: str | None, form: str) -> None:
    """Compare adapter A with B on the golden images of its check.

    B is an id or "base"; default: the champion. Both score the same images as workers do, each with its own calibrator,
    and the gate judges them as after a training: promote, hold or reject, with every figure. Changes nothing:
    `adapters promote` puts an adapter in use.

    \b
    Example:
      scanfleet adapters compare 7
      scanfleet adapters compare 7 5
      scanfleet adapters compare 7 base --format json
    """
    from scanfleet.producer.local.child import Child
    from scanfleet.producer.local.workers import require_worker_extra

    rival, settings = _who(flags, adapter_id, against)
    require_worker_extra()
    with Child(settings, "scanfleet.worker.commands.compare") as child:
        child.feed([{"adapter": adapter_id, "against": rival}])
        for message in child.messages():
            if message["kind"] == "progress":
                _show_progress(message["done"], message["total"])
                continue
            for words in message["notes"]:
                note(words)
            if form == "json":
                click.echo(json.dumps(message["record"], indent=2, ensure_ascii=False))
            else:
                click.echo("\n".join(printable(line) for line in message["lines"]))


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {total} readings", err=True, nl=done >= total)


def _who(flags: Flags, adapter_id: int, against: str | None) -> tuple[int | None, Settings]:
    """Return the id of the adapter to compare with (None: the base alone) and settings with their base model.

    Raises UnknownName.
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.training.adapters import get_adapter
    from scanfleet.db.training.champions import champion

    if against is not None and against != BASE and not against.isdigit():
        raise click.UsageError(f'B is the id of an adapter or "{BASE}", not {against!r}')
    with flags.ledger() as engine, reading(engine) as connection:
        info = get_adapter(connection, adapter_id)
        if against is None:
            in_use = champion(connection, info.check_name, info.base_model)
            rival = None if in_use is None else in_use.id
        else:
            rival = None if against == BASE else get_adapter(connection, int(against)).id
    if rival == adapter_id:
        same = "it is the champion itself" if against is None else "that is the same one"
        raise click.UsageError(f'cannot compare adapter {adapter_id} with itself: {same}; name another id, or "{BASE}"')
    return rival, flags.settings(model=info.base_model)
