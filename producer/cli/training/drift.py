"""`scanfleet drift`: compare the answers of scans with earlier ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, echo_line, note
from scanfleet.producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    from scanfleet.db.drift.uri_parts import By
    from scanfleet.producer.training.drift import Drift


@click.command()
@click.option("--check", "check_name", metavar="NAME", help="Only this check. Default: every check with a scan.")
@click.option("--scan", "scan_id", metavar="SCAN", help="Only this scan. Default: the newest 20 of each check.")
@click.option(
    "--by", metavar="source|DEPTH", help="Also by source, or by folder DEPTH levels (1 to 5) below the source."
)
@click.option("--alarm", is_flag=True, help="Exit 25 if there is an alarm.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def drift(flags: Flags, check_name: str | None, scan_id: str | None, by: str | None, alarm: bool, form: str) -> None:
    """Report drift in scores, labels and human corrections.

    Each scan is compared with the first one by the same scorer that has at least 200 verdicts. psi: how far its margins
    moved, an alarm from 0.2 beyond chance; ratio: of the flag rates; far: share of images unlike those that the adapter
    was calibrated on, judged in a first scan, too (a tenth is expected); low_mass: share of verdicts in which the model
    gives the labels little probability. Corrections count since the adapter in use last changed; only those of random
    samples represent the archive. Reads every answer of these scans: some seconds for a million.

    \b
    Example:
      scanfleet drift --check overlay --by source
      scanfleet drift --check overlay --alarm || mail -s drift me@example.org
    """
    from scanfleet.db.engine import reading
    from scanfleet.errors import DriftAlarm
    from scanfleet.producer.training.drift import drift_of, record

    way = _way(by)
    with flags.ledger() as engine, reading(engine, long=True) as connection:
        found = list(drift_of(connection, check_name=check_name, scan_id=scan_id, by=way))
    if form == "json":
        click.echo(json.dumps([record(each) for each in found], indent=2, ensure_ascii=False))
    else:
        for each in found:
            _echo(each)
        if not any(each.slices for each in found):
            note("no verdict yet: there is nothing to compare")
    alarms = [words for each in found for words in each.alarms]
    if alarm and alarms:
        raise DriftAlarm(f"{count(len(alarms), 'alarm')}: {alarms[0]}")


def _way(by: str | None) -> By | None:
    from scanfleet.db.drift.uri_parts import MAX_DEPTH

    if by is None:
        return None
    if by == "source":
        return "source"
    if by.isascii() and by.isdigit() and 1 <= int(by) <= MAX_DEPTH:
        return int(by)
    raise click.BadParameter(f"{by!r} is neither source nor a depth from 1 to {MAX_DEPTH}", param_hint="--by")


def _echo(found: Drift) -> None:
    from scanfleet.producer.training.drift import HEADER, label_rows, row

    click.echo(f"check {found.check}")
    for scorer in dict.fromkeys((each.scorer_id, each.scorer) for each in found.slices):
        click.echo(f"\nscorer {scorer[0]}: {scorer[1]}")
        rows = [row(each) for each in found.slices if each.scorer_id == scorer[0]]
        echo_table(HEADER, rows, below=("source", "reference"))
    if any(each.overridden.n for each in found.labels):
        click.echo()
        header = ("drawn", "corrected", "missed among cleared", "recall", "positive")
        echo_table(header, label_rows(found.labels), below=header[2:])
    click.echo()
    for finding in found.findings:
        echo_line(f"{finding.level}: {finding.words}")
    if not found.findings and found.slices:
        click.echo("no alarm")
