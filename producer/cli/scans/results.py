"""`scanfleet results`: list, show and export answers and failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note, require_csv, spreadsheet_option
from scanfleet.producer.cli.tables import Cell, count, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks.crop_result import CropResult
    from scanfleet.checks.explanation import Explanation
    from scanfleet.checks.frame_result import FrameResult
    from scanfleet.db.results.results import Result, ResultFilter

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def wanted_options(command: FunctionT) -> FunctionT:
    for option in reversed(
        (
            click.option(
                "--scan",
                metavar="SCAN",
                help="Only this scan. Default: all; the answers of a rescan are shown in the scan that it renews.",
            ),
            click.option(
                "--state", type=click.Choice(["pending", "verdict", "failed", "cancelled"]), help="In this state."
            ),
            click.option("--label", metavar="LABEL", help="With this answer."),
            click.option("--decision", type=click.Choice(["clear", "review", "flag"]), help="With this decision."),
            click.option("--min-score", type=float, metavar="P", help="With at least this score."),
            click.option("--max-score", type=float, metavar="P", help="With at most this score."),
            click.option("--prefix", metavar="TEXT", help="Whose uri starts with TEXT."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=ScanfleetGroup)
def results() -> None:
    """List, show and export verdicts and failures, one per image.

    \b
    Example:
      scanfleet results ls --decision flag --min-score 0.9
    """


@results.command("ls")
@wanted_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most results to show.")
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@click.pass_obj
def list_results(flags: Flags, /, *, limit: int, form: str, **wanted: Any) -> None:
    """List results, the oldest first.

    Without --scan and --state, images that no worker has tried yet are left out: an abandoned scan has thousands.

    \b
    Example:
      scanfleet results ls --scan k7m2 --decision flag
    """
    from scanfleet.db.results.results import iter_results
    from scanfleet.producer.reports.export import write_results
    from scanfleet.producer.reports.output import target

    with flags.ledger() as engine:
        chosen = _filter(engine, wanted)
        if chosen.scan is None and chosen.state is None:
            chosen = replace(chosen, tried=True)
        found = iter_results(engine, chosen, limit=limit)
        if form != "table":
            with target(None, form=form) as file:
                write_results(found, file, form=form)
            return
        shown = list(found)
    echo_results(shown)
    if not shown:
        note("no image matches")
    elif len(shown) == limit:
        note(f"only the first {limit} are shown: use --limit or `scanfleet results export`")


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

    with flags.ledger() as engine:
        found = list(iter_results(engine, _filter(engine, {"scan": scan, "uri": _as_listed(uri)})))
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


@results.command()
@wanted_options
@click.option("--limit", type=click.IntRange(min=1), help="Most results to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "json", "csv", "parquet", "labelstudio"]),
    default="jsonl",
    show_default=True,
    help="JSONL and JSON are nested, CSV and Parquet flat; Label Studio: tasks with the answers as predictions.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: stdout.")
@spreadsheet_option
@click.pass_obj
def export(
    flags: Flags, /, *, limit: int | None, form: str, output: Path | None, spreadsheet: bool, **wanted: Any
) -> None:
    """Write one line per image, whatever its state.

    The state is verdict, failed, pending or cancelled; --state verdict writes answers only. A file appears once it is
    complete; a device or pipe is written directly. In CSV and Parquet each column of the manifest is a column
    `meta.<name>`; the column `meta` holds the others: those beyond 200, and those that first turn up after 500 lines.

    \b
    Example:
      scanfleet results export --scan k7m2 --format parquet -o verdicts.parquet
      scanfleet results export --decision review --format labelstudio -o todo.json
    """
    from scanfleet.db.results.results import iter_results
    from scanfleet.producer.cli.scans.outcome import report_warnings
    from scanfleet.producer.reports.export import write_results
    from scanfleet.producer.reports.output import target

    require_csv(form, spreadsheet=spreadsheet)
    with flags.ledger() as engine:
        found = iter_results(engine, _filter(engine, wanted), limit=limit)
        with target(output, form=form) as file:
            n = write_results(found, file, form=form, spreadsheet=spreadsheet)
        if wanted["scan"] is not None:
            report_warnings(engine, wanted["scan"])
    note(count(n, "line") + (f" in {output}" if output else ""))


def _filter(engine: sa.Engine, wanted: dict[str, Any]) -> ResultFilter:
    """Raises UnknownName for an unknown scan."""
    from scanfleet.db.engine import reading
    from scanfleet.db.results.results import ResultFilter
    from scanfleet.db.scans.scans import get_scan

    if wanted["scan"] is not None:
        with reading(engine) as connection:
            wanted = wanted | {"scan": get_scan(connection, wanted["scan"]).id}
    return ResultFilter(**wanted)


def _as_listed(uri: str) -> str:
    """Return a path as the ledger stores it: absolute, its folder without links."""
    if "://" in uri:
        return uri
    path = Path(uri).expanduser().absolute()
    return str(path.parent.resolve() / path.name)


def echo_results(shown: Sequence[Result]) -> None:
    """Print a table, with columns for boxes, crops, frames and explanations where any image has them."""
    header: tuple[str, ...] = ("scan", "state", "label", "decision", "score", "margin", "uri")
    rows = [_row(result) for result in shown]
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
