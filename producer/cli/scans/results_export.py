"""`scanfleet results export`: answers and failures as files for other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scanfleet.producer.cli.options import Flags, note, require_csv, spreadsheet_option
from scanfleet.producer.cli.queries.filters import read_filter, wanted_options
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.config.settings import Settings
    from scanfleet.producer.reports.exports.formats import Export

WARNED_SCANS = 20  # the newest ones, of an export over all
FORMATS = ("jsonl", "json", "csv", "parquet", "xlsx", "sqlite", "coco", "labelstudio", "rekognition")
TABLES = ("csv", "parquet", "xlsx", "sqlite")
IN_PARTS = ("csv", "parquet", "jsonl")

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _form_options(command: FunctionT) -> FunctionT:
    for option in reversed(
        (
            click.option("--limit", type=click.IntRange(min=1), help="Most results to write."),
            click.option(
                "--format",
                "form",
                type=click.Choice(FORMATS),
                default="jsonl",
                show_default=True,
                help="csv, parquet, xlsx and sqlite are tables; the others have the nested results or the answers.",
            ),
            click.option("-o", "--output", metavar="FILE", help="A file, or s3://BUCKET/KEY. Default: stdout."),
            click.option("--columns", metavar="A,B", help="Of a table: only these columns, in this order."),
            click.option(
                "--partition-by",
                "by",
                type=click.Choice(["day", "week", "month"]),
                help="Of scoring, in UTC: files in -o FOLDER/day=2026-11-30/ ... (csv, parquet, jsonl).",
            ),
            click.option(
                "--dotted-names", is_flag=True, help="Of a table: `meta.NAME`, as before, for fields of the manifest."
            ),
            spreadsheet_option,
        )
    ):
        command = option(command)
    return command


@click.command()
@wanted_options
@_form_options
@click.pass_obj
def export(
    flags: Flags,
    /,
    *,
    limit: int | None,
    form: str,
    output: str | None,
    columns: str | None,
    by: str | None,
    dotted_names: bool,
    spreadsheet: bool,
    **wanted: Any,
) -> None:
    """Write one line per image, whatever its state.

    The state is verdict, failed, pending or cancelled; --state verdict writes answers only. A file, an object and a
    folder appear once they are complete; a device or pipe is written directly. In tables (CSV, Parquet, XLSX, SQLite)
    each field of the manifest is a column `meta_NAME`; the column `meta` holds the others: those beyond 200.
    docs/exports.md lists formats and columns.

    \b
    Example:
      scanfleet results export --scan k7m2 --format parquet -o verdicts.parquet
      scanfleet results export --format parquet -o s3://lake/ads.parquet
      scanfleet results export --format csv --partition-by day -o verdicts
      scanfleet results export --decision review --format labelstudio -o todo.json
    """
    from scanfleet.db.results.filters import OVERLAP
    from scanfleet.producer.cli.scans.outcome import report_warnings
    from scanfleet.producer.reports.exports.formats import Export

    require_csv(form, spreadsheet=spreadsheet)
    _require_table(form, columns=columns, dotted_names=dotted_names)
    if by is not None and (output is None or form not in IN_PARTS):
        raise click.UsageError(f"--partition-by needs -o FOLDER and --format {', '.join(IN_PARTS)}")
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    with flags.ledger() as engine:
        chosen = Export(
            engine=engine,
            wanted=read_filter(engine, wanted, overlap=OVERLAP),
            form=form,
            limit=limit,
            columns=names,
            dotted=dotted_names,
            spreadsheet=spreadsheet,
        )
        n = _write(chosen, flags.settings(), output, by)
        report_warnings(engine, *(wanted["scan"] or _newest(engine, wanted["check"])))
    note(count(n, "line") + (f" in {output}" if output else ""))


def _newest(engine: sa.Engine, checks: Sequence[str]) -> list[str]:
    """Return the scans whose answers an export over all of them is warned about."""
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.scans import list_scans

    with reading(engine) as connection:
        found = list_scans(connection, limit=WARNED_SCANS)
    return [scan.id for scan in found if scan.rescan_of is None and (not checks or scan.check in checks)]


def _require_table(form: str, *, columns: str | None, dotted_names: bool) -> None:
    if form not in TABLES and (columns is not None or dotted_names):
        raise click.UsageError(f"--columns and --dotted-names need a table: --format {', '.join(TABLES)}")


def _write(chosen: Export, settings: Settings, output: str | None, by: str | None) -> int:
    from scanfleet.producer.reports.exports.places import folder_target, write_export

    if by is None:
        return write_export(chosen, output, settings)
    assert output is not None
    with folder_target(output, settings) as folder:
        return chosen.write_parts(folder, by=by)
