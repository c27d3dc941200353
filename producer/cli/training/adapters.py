"""`scanfleet adapters`: list, show, promote and roll back adapters."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from scanfleet.config.user import user_name
from scanfleet.producer.cli.options import Flags, ScanfleetGroup, echo_line, note, printable
from scanfleet.producer.cli.tables import Cell, echo_table
from scanfleet.producer.cli.training.adapter_files import pull, push
from scanfleet.producer.cli.training.adapters_compare import compare

FORMAT = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
WHY = click.option("--why", metavar="TEXT", help="The reason, for the record.")
WHO = click.option("--who", metavar="NAME", help="Who decides, for the record. Default: your user name.")
HISTORY = 10  # changes of the champion that `show` prints


@click.group(cls=ScanfleetGroup)
def adapters() -> None:
    """List, compare, promote, roll back, push and pull adapters.

    \b
    Example:
      scanfleet adapters ls --check overlay
    """


@adapters.command("ls")
@click.option("--check", "check_name", metavar="NAME", help="Only those of this check.")
@FORMAT
@click.pass_obj
def list_adapters(flags: Flags, /, *, check_name: str | None, form: str) -> None:
    """List adapters, the newest first, and which of them are in use.

    \b
    Example:
      scanfleet adapters ls --check overlay
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.training import adapters as registry
    from scanfleet.db.training.champions import in_use
    from scanfleet.producer.training.adapter_summary import headline, record
    from scanfleet.producer.training.refusals import refusal_text, refused_champions

    with flags.ledger() as engine, reading(engine) as connection:
        found = registry.list_adapters(connection, check_name)
        used = set(in_use(connection).values())
        refused = refused_champions(connection)
    if form == "json":
        click.echo(json.dumps([record(each, in_use=each.id in used) for each in found], indent=2))
    else:
        rows: list[tuple[Cell, ...]] = [
            (
                each.id,
                each.check_name,
                each.base_model,
                each.weights_sha256[:12],
                "in use" if each.id in used else None,
                each.gate_verdict,
                headline(each),
                f"{each.created_at:%Y-%m-%d %H:%M}",
            )
            for each in found
        ]
        header = ("id", "check", "base", "weights", "champion", "gate", "figures", "registered")
        echo_table(header, rows, below=("figures", "registered"))
    if not found:
        note("no adapter yet: workers register those that ship; `scanfleet train start --check NAME` trains one")
    for refusal in refused:
        note(refusal_text(refusal))


@adapters.command()
@click.argument("adapter_id", metavar="ID", type=int)
@FORMAT
@click.pass_obj
def show(flags: Flags, /, *, adapter_id: int, form: str) -> None:
    """Show an adapter.

    Prints recipe, figures, thresholds, the gate's report, refusals by workers, and when it was in use.

    \b
    Example:
      scanfleet adapters show 7
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.training.adapters import get_adapter
    from scanfleet.db.training.champions import champion, history
    from scanfleet.db.training.refusals import open_refusals
    from scanfleet.producer.training.adapter_summary import change_line, facts, gate_lines, record

    with flags.ledger() as engine, reading(engine) as connection:
        found = get_adapter(connection, adapter_id)
        used = champion(connection, found.check_name, found.base_model)
        refused = open_refusals(connection, adapter_id)
        changes = history(connection, found.check_name, found.base_model)
    in_use = used is not None and used.id == adapter_id
    if form == "json":
        refusals = [{"worker": each.worker, "why": each.why, "at": each.at.isoformat()} for each in refused]
        moves = [asdict(each) | {"at": each.at.isoformat()} for each in changes]
        click.echo(json.dumps(record(found, in_use=in_use) | {"refusals": refusals, "promotions": moves}, indent=2))
        return
    lines = [("adapter", f"{adapter_id}, in use" if in_use else f"{adapter_id}, not in use"), *facts(found)]
    lines += [("gate", line) for line in gate_lines(found.gate, found.gate_verdict)]
    lines += [("REFUSED", f"by {each.worker}, {each.at:%Y-%m-%d %H:%M}: {each.why}") for each in refused]
    lines += [("champion", change_line(each)) for each in changes[:HISTORY]]
    before = ""
    for name, words in lines:
        echo_line(f"{'' if name == before else name:<9} {printable(words)}", hang=10)
        before = name


@adapters.command()
@click.argument("adapter_id", metavar="ID", type=int)
@click.option("--force", is_flag=True, help="Promote even if the gate did not; needs --why.")
@WHY
@WHO
@click.pass_obj
def promote(flags: Flags, /, *, adapter_id: int, force: bool, why: str | None, who: str | None) -> None:
    """Put an adapter in use for its check and base model.

    Exit 23 if the gate did not pass it. Files that differ from those registered are refused, even with --force, if they
    can be read from here. Running workers load it while they score, and use it from their next batch.

    \b
    Example:
      scanfleet adapters promote 7
      scanfleet adapters promote 7 --force --why "the golden set has old labels"
    """
    from scanfleet.db.schema import ledger
    from scanfleet.producer.training.promotion import promote as put_in_use

    if force and not (why or "").strip():
        raise click.UsageError("--force needs --why: give the reason for overruling the gate")
    settings = flags.settings()
    with ledger(settings) as engine:
        done = put_in_use(engine, settings, adapter_id, force=force, why=why, who=who or user_name())
    if done.unseen is not None:
        note(f"could not check the files of adapter {adapter_id}: {done.unseen}")
    if not done.changed:
        note(f"adapter {adapter_id} is already in use")
        return
    before = "the base model alone" if done.previous_id is None else f"adapter {done.previous_id}"
    check, base = done.adapter.check_name, done.adapter.base_model
    note(f"check {check} on {base}: adapter {adapter_id} is in use and replaces {before}")


@adapters.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="The check's name.")
@click.option("--model", metavar="MODEL", help="Base model. Default: the only one in use, else the setting.")
@WHY
@WHO
@click.pass_obj
def rollback(flags: Flags, /, *, check_name: str, model: str | None, why: str | None, who: str | None) -> None:
    """Put the previous adapter back in use, or the base model alone.

    Running it twice goes back two steps.

    \b
    Example:
      scanfleet adapters rollback --check overlay --why "flags every advert"
    """
    from scanfleet.db.schema import ledger
    from scanfleet.producer.training.promotion import roll_back

    settings = flags.settings()
    with ledger(settings) as engine:
        base, change = roll_back(engine, settings, check_name, model=model, why=why, who=who or user_name())
    before, now = (
        "the base model alone" if i is None else f"adapter {i}" for i in (change.previous_id, change.adapter_id)
    )
    note(
        f"check {check_name} on {base}: {before} is out of use; {now} answers from now on. "
        "Old answers stay: `scanfleet rescan SCAN` re-scores them"
    )


adapters.add_command(push)
adapters.add_command(pull)
adapters.add_command(compare)
