"""`scanfleet results`: list, show and export answers and failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note
from scanfleet.producer.cli.queries.filters import as_listed, read_filter, wanted_options
from scanfleet.producer.cli.queries.rows import echo_rows, form_option
from scanfleet.producer.cli.tables import Cell, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks.crop_result import CropResult
    from scanfleet.checks.explanation import Explanation
    from scanfleet.checks.frame_result import FrameResult
    from scanfleet.db.results.results import Result, ResultFilter


@click.group(cls=ScanfleetGroup)
def results() -> None:
    """List, show and export verdicts and failures, one per image.

    \b
    Example:
      scanfleet results ls --decision flag --min-score 0.9
    """


@results.command("ls")
@wanted_options
@click.option(
    "--sort",
    metavar="COLUMN",
    help="score, margin, unlike, size (highest first), scored_at (newest first) or uri; -score: the other way round.",
)
@click.option("--columns", metavar="A,B,...", help="Show these columns of an export, such as uri,score,meta_campaign.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most results to show.")
@form_option()
@click.pass_obj
def list_results(
    flags: Flags, /, *, sort: str | None, columns: str | None, limit: int, form: str, **wanted: Any
) -> None:
    """List results, the oldest first.

    Without --scan and --state, images that no worker has tried yet are left out: an abandoned scan has thousands.
    An option given several times asks for any of its values.

    \b
    Example:
      scanfleet results ls --scan k7m2 --decision flag
      scanfleet results ls --where campaign=spring --sort score --limit 10
    """
    from scanfleet.producer.cli.queries.columns import as_rows, read_columns
    from scanfleet.producer.reports.export import write_results
    from scanfleet.producer.reports.output import target

    names = None if columns is None else read_columns(columns)
    require_sort(sort)
    with flags.ledger(only_reads=True) as engine:
        chosen = read_filter(engine, wanted)
        if not chosen.scan and not chosen.state:
            chosen = replace(chosen, tried=True)
        shown = _listed(engine, chosen, sort=sort, limit=limit)
        if names is not None:
            echo_rows(names, as_rows(shown, names), form=form)
        elif form != "table":
            with target(None, form=form) as file:
                write_results(shown, file, form=form)
        else:
            echo_results(shown)
    if form != "table":
        return
    if not shown:
        note("no image matches")
    elif len(shown) == limit:
        note(f"only the first {limit} are shown: use --limit or `scanfleet results export`")


def require_sort(sort: str | None) -> None:
    from scanfleet.db.queries.listing import SORTS
    from scanfleet.errors import RequestError

    if sort is not None and sort not in SORTS:
        raise RequestError(f"--sort {sort}: name one of {', '.join(SORTS)}")


def _listed(engine: sa.Engine, chosen: ResultFilter, *, sort: str | None, limit: int) -> list[Result]:
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.listing import first_results, top_results

    if sort is None:
        return first_results(engine, chosen, limit=limit)
    with reading(engine, long=True) as connection:
        return top_results(connection, chosen, limit=limit, sort=sort)


@results.command()
@click.argument("uri")
@click.option("--scan", metavar="SCAN", help="Only this scan.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "table"]),
    default="json",
    show_default=True,
    help="Table: the answers of all checks side by side.",
)
@click.pass_obj
def show(flags: Flags, uri: str, scan: str | None, form: str) -> None:
    """Show everything known about one image, as JSON.

    Prints one object, or one line of a table, for each scan that holds the image.

    \b
    Example:
      scanfleet results show s3://ads/2026/banner.png
      scanfleet results show s3://ads/2026/banner.png --format table
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.results.results import iter_results
    from scanfleet.db.scans.scans import get_scan
    from scanfleet.errors import UnknownName
    from scanfleet.producer.reports.export import as_record
    from scanfleet.producer.reports.output import escaped

    with flags.ledger(only_reads=True) as engine:
        wanted = {"scan": [scan] if scan else [], "uri": as_listed(uri)}
        found = list(iter_results(engine, read_filter(engine, wanted)))
        with reading(engine) as connection:
            checks = {result.scan: get_scan(connection, result.scan).check for result in found}
    if not found:
        raise UnknownName(f"no scan holds {uri}: find names with `scanfleet results ls --prefix TEXT`")
    if form == "table":
        header = ("check", "state", "label", "decision", "score", "margin", "scan")
        rows = [(checks[result.scan], *_row(result)[1:-1], result.scan) for result in found]
        echo_table(header, rows, below=("scan",))
        return
    for result in found:
        text = json.dumps(as_record(result), indent=2, ensure_ascii=False)
        click.echo(escaped(text) if sys.stdout.isatty() else text)


def echo_results(shown: Sequence[Result]) -> None:
    """Print a table, with columns for what differs (check, model) or any image has (boxes, crops, explanations)."""
    header: tuple[str, ...] = ("scan", "state", "label", "decision", "score", "margin", "uri")
    rows = [_row(result) for result in shown]
    for name in ("model", "check"):
        values = [getattr(result, name) for result in shown]
        if len(set(values)) > 1:
            header = (header[0], name, *header[1:])
            rows = [(row[0], value, *row[1:]) for row, value in zip(rows, values, strict=True)]
    if any(result.boxes is not None for result in shown):
        from scanfleet.producer.reports.drawing import boxes_in_words

        header = (*header[:-1], "boxes", header[-1])
        rows = [(*row[:-1], boxes_in_words(result.boxes), row[-1]) for row, result in zip(rows, shown, strict=True)]
    if any(result.crop is not None for result in shown):
        header = (*header[:-1], "crop", header[-1])
        rows = [(*row[:-1], _crop_margins(result.crop), row[-1]) for row, result in zip(rows, shown, strict=True)]
    if any(result.frames is not None for result in shown):
        header = (*header[:-1], "frames", header[-1])
        rows = [(*row[:-1], _frames(result.frames), row[-1]) for row, result in zip(rows, shown, strict=True)]
    if any(result.explanation is not None for result in shown):
        header = (*header[:-1], "explanation", header[-1])
        rows = [(*row[:-1], _said(result.explanation), row[-1]) for row, result in zip(rows, shown, strict=True)]
    echo_table(header, rows, below=("boxes", "crop", "frames", "explanation", "uri"))


def _row(result: Result) -> tuple[Cell, ...]:
    state = result.state if result.failure is None else f"failed ({result.failure.reason})"
    return (result.scan, state, result.label, result.decision, result.score, result.margin, result.uri)


def _crop_margins(crop: CropResult | None) -> str | None:
    """Return the margins of the first pass and of the crop, or the reason for no crop."""
    if crop is None:
        return None
    return f"{crop.first:+.3f} {crop.skipped if crop.second is None else format(crop.second, '+.3f')}"


def _said(explanation: Explanation | None) -> str | None:
    """Return the text in quotes, which is untrusted, or the reason for none."""
    if explanation is None:
        return None
    return f"none: {explanation.problem}" if explanation.text is None else f'"{explanation.text}"'


def _frames(frames: FrameResult | None) -> str | None:
    """Return the picture with the answer, and the number of those scored unless that is all of them."""
    from scanfleet.checks.frame_result import frame_in_words

    if frames is None:
        return None
    return frame_in_words(frames) + ("" if frames.complete else f" ({frames.n_scored} scored)")
