"""`scanfleet results compare`: two scans, or the answers of two adapters, image by image."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, echo_line, note
from scanfleet.producer.cli.queries.filters import image_options, read_filter
from scanfleet.producer.cli.queries.rows import echo_rows, form_option
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    from scanfleet.db.queries.comparison import Cell, Flip

DECISIONS = ("clear", "review", "flag")
NO_ANSWER = "no answer"


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--by",
    type=click.Choice(["uri", "content"]),
    default="uri",
    show_default=True,
    help="What makes images the same: their name, or their bytes.",
)
@click.option("--flips", is_flag=True, help="List the images that are decided differently.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most flips to list.")
@image_options
@form_option("table", "json")
@click.pass_obj
def compare(flags: Flags, /, *, a: str, b: str, by: Any, flips: bool, limit: int, form: str, **wanted: Any) -> None:
    """Compare the decisions of two scans or two adapters.

    A and B are scans, with the answers that stand, or adapters (id, first letters of the SHA-256, none), with the
    newest answer that each ever gave an image. Where a name is both, write scan:A or adapter:A.

    \b
    Example:
      scanfleet results compare k7m2 p3xw --flips
      scanfleet results compare adapter:1 adapter:2 --scan k7m2
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.comparison import Comparison, side_of

    with flags.ledger(only_reads=True) as engine:
        chosen = read_filter(engine, wanted)
        with reading(engine, long=True) as connection:
            sides = (side_of(connection, a), side_of(connection, b))
            pairs = Comparison(connection, *sides, chosen, by=by)
            cells = pairs.cells()
            changed = pairs.flips(limit=limit) if flips else None
    names = (sides[0].name, sides[1].name)
    if form == "json":
        _echo_json(names, cells, changed)
        return
    _echo_cells(names, cells)
    if changed is not None:
        _echo_flips(changed, limit)


def _totals(cells: Sequence[Cell]) -> dict[str, int]:
    decided = [cell for cell in cells if cell.a is not None and cell.b is not None]
    return {
        "both": sum(cell.n for cell in cells if cell.in_a and cell.in_b),
        "decided": sum(cell.n for cell in decided),
        "changed": sum(cell.n for cell in decided if cell.a != cell.b),
        "only_in_a": sum(cell.n for cell in cells if not cell.in_b),
        "only_in_b": sum(cell.n for cell in cells if not cell.in_a),
    }


def _echo_json(names: tuple[str, str], cells: Sequence[Cell], changed: Sequence[Flip] | None) -> None:
    from scanfleet.producer.reports.output import escaped

    table = [{"a": cell.a, "b": cell.b, "images": cell.n} for cell in cells if cell.in_a and cell.in_b]
    record: dict[str, Any] = {"a": names[0], "b": names[1], **_totals(cells), "decisions": table}
    if changed is not None:
        record["flips"] = [asdict(flip) for flip in changed]
    text = json.dumps(record, indent=2, ensure_ascii=False)
    click.echo(escaped(text) if sys.stdout.isatty() else text)


def _echo_cells(names: tuple[str, str], cells: Sequence[Cell]) -> None:
    a, b = names
    totals = _totals(cells)
    counted = {(cell.a, cell.b): cell.n for cell in cells if cell.in_a and cell.in_b}
    echo_line(f"{count(totals['both'], 'image')} of both (rows: {a}, columns: {b})")
    present = [key for key in (*DECISIONS, None) if any(key in pair for pair in counted)]
    rows = [[key or NO_ANSWER, *(counted.get((key, other), 0) for other in present)] for key in present]
    if rows:
        echo_rows(["", *(key or NO_ANSWER for key in present)], rows, form="table")
    echo_line(f"decided differently: {totals['changed']} of {totals['decided']}")
    echo_line(f"only in {a}: {totals['only_in_a']}; only in {b}: {totals['only_in_b']}")


def _echo_flips(changed: Sequence[Flip], limit: int) -> None:
    if not changed:
        return
    click.echo()
    header = ("A", "label", "margin", "B", "label", "margin", "uri")
    rows = [
        (flip.a_decision, flip.a_label, flip.a_margin, flip.b_decision, flip.b_label, flip.b_margin, flip.uri)
        for flip in changed
    ]
    echo_rows(header, rows, form="table")
    if len(changed) == limit:
        note(f"only the first {limit} are shown: --limit shows more")
