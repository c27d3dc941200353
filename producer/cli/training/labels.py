"""`scanfleet labels`: add, list, undo and export labels that people gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note, read_time
from scanfleet.producer.cli.tables import count, echo_table
from scanfleet.producer.cli.training.labels_export import export_labels
from scanfleet.producer.cli.training.labels_generate import generate_labels
from scanfleet.producer.cli.training.labels_import import confirm, import_labels, user

if TYPE_CHECKING:
    from scanfleet.db.labels.history import LabelLine

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

HEADER = ("id", "at", "check", "label", "boxes", "who", "state", "split", "uri")
SPLITS = ("train", "calibration", "threshold", "golden", "none")


def wanted_options(command: FunctionT) -> FunctionT:
    for option in reversed(
        (
            click.option("--check", "check_name", metavar="NAME", help="Only this check."),
            click.option("--label", metavar="LABEL", help="Only this label."),
            click.option("--split", type=click.Choice(SPLITS), help="Only images in this split."),
            click.option("--who", metavar="NAME", help="Only labels by this person."),
            click.option(
                "--since",
                callback=read_time,
                metavar="TIME",
                help="Only labels from this time on: 2026-05-01T13:30, or 7d ago.",
            ),
        )
    ):
        command = option(command)
    return command


@click.group(cls=ScanfleetGroup)
def labels() -> None:
    """Add, import and export labels, and choose what to label next.

    Labels are added, never changed. A person's newest label counts. Where people differ, the image is in conflict and
    used for nothing until somebody settles it.

    \b
    Example:
      scanfleet labels import truth.csv --check overlay
    """


@labels.command()
@click.argument("uri")
@click.argument("label")
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name or .toml file.")
@click.option("--box", "boxes", multiple=True, metavar="'X0 Y0 X1 Y1'", help="A box in pixels; may be repeated.")
@click.option("--who", metavar="NAME", help="Who labels. Default: your user name.")
@click.option("--settle", is_flag=True, help="Settle a conflict: of the labels so far, only this one counts.")
@click.option(
    "--group", metavar="NAME", help="What the image belongs to, such as a bag or a session. A group is never split."
)
@click.option("--note", "remark", metavar="TEXT", help="A note to keep with the label.")
@click.pass_obj
def add(flags: Flags, /, uri: str, label: str, *, check_name: str, **more: Any) -> None:
    """Label one image.

    The image is read once. The label belongs to its bytes, wherever copies lie. A box may start with its own label.
    Of a check of kind multi, LABEL is a set: knife,gun, or none.

    \b
    Example:
      scanfleet labels add photo.jpg overlay --check overlay --box "10 20 110 60"
      scanfleet labels add bag.png knife,gun --check xray.toml
    """
    from scanfleet.producer.labels.adding import add_one

    settings = flags.settings()
    with flags.ledger() as engine:
        done = add_one(
            engine, settings, uri=uri, label=label, check_name=check_name, who=more.pop("who") or user(), **more
        )
    note(done)


labels.add_command(import_labels)
labels.add_command(generate_labels)


@labels.command("ls")
@wanted_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most labels to show.")
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@click.pass_obj
def list_labels(flags: Flags, /, *, limit: int, form: str, **wanted: Any) -> None:
    """List labels, the newest first, with their state.

    state: counts; conflict (people differ); replaced (by a newer or settling label); undone.

    \b
    Example:
      scanfleet labels ls --check overlay --who ann --since 2026-05-01
    """
    from scanfleet.db.labels.history import LabelFilter, iter_labels
    from scanfleet.producer.labels.exporting import write_lines
    from scanfleet.producer.reports.output import target

    with flags.ledger() as engine:
        found = iter_labels(engine, LabelFilter(**wanted), limit=limit)
        if form != "table":
            with target(None, form=form) as file:
                write_lines(found, file, form=form)
            return
        shown = list(found)
    echo_table(HEADER, [_row(line) for line in shown], below=("at", "uri"))
    if not shown:
        note("no label matches")
    elif len(shown) == limit:
        note(f"only the first {limit} are shown: --limit shows more")


@labels.command()
@click.argument("ids", nargs=-1, type=int, metavar="ID...")
@wanted_options
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def undo(flags: Flags, /, ids: tuple[int, ...], *, yes: bool, **wanted: Any) -> None:
    """Undo labels, by id or by filter. The labels before them count again.

    \b
    Example:
      scanfleet labels undo 17 18
      scanfleet labels undo --who eve --since 2026-05-01T13:30
    """
    from scanfleet.db.engine import reading, transaction
    from scanfleet.db.labels.history import LabelFilter, count_labels, undo_labels
    from scanfleet.retry import retry_database

    if not ids and wanted["who"] is None and wanted["since"] is None:
        raise click.UsageError("choose labels: give ids (`scanfleet labels ls` shows them), --who or --since")
    chosen = LabelFilter(**wanted, ids=ids or None)

    with flags.ledger() as engine:
        if not ids:
            with reading(engine, long=True) as connection:
                n = count_labels(connection, chosen)
            if n and not confirm(f"undo {count(n, 'label')}?", yes=yes, needed=True):
                return

        def take_back() -> int:
            with transaction(engine, long=True) as connection:
                return undo_labels(connection, chosen, who=user())

        n = retry_database(take_back)
    note(f"{count(n, 'label')} undone" + ("" if n else ": none matches, or all were undone before"))


@labels.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most images to show.")
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl"]), default="table")
@click.pass_obj
def conflicts(flags: Flags, /, *, check_name: str, limit: int, form: str) -> None:
    """List the images that people label differently, with every label.

    They are used for nothing until somebody settles them with `scanfleet labels add URI LABEL --settle`, or until the
    people agree.

    \b
    Example:
      scanfleet labels conflicts --check overlay
    """
    from itertools import islice

    from scanfleet.db.labels.history import iter_conflicts
    from scanfleet.producer.labels.exporting import write_lines
    from scanfleet.producer.reports.output import target

    with flags.ledger() as engine:
        found = islice(iter_conflicts(engine, check_name), limit)
        if form != "table":
            with target(None, form=form) as file:
                write_lines((line for conflict in found for line in conflict.labels), file, form=form)
            return
        shown = list(found)
    rows = [
        (conflict.uri, line.who, line.label, _time(line), line.id) for conflict in shown for line in conflict.labels
    ]
    echo_table(("uri", "who", "label", "at", "id"), rows, below=("uri",))
    if not shown:
        note(f"no conflicts in check {check_name}")
    elif len(shown) == limit:
        note(f"only the first {limit} images are shown: --limit shows more")


labels.add_command(export_labels)


def _row(line: LabelLine) -> tuple[str | int | None, ...]:
    boxes = None if line.boxes is None else len(line.boxes)
    return (line.id, _time(line), line.check_name, line.label, boxes, line.who, line.state, line.split, line.uri)


def _time(line: LabelLine) -> str:
    return f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}"
