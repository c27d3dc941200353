"""Prints the changes that a rescan brought."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, echo_line, note
from scanfleet.producer.cli.tables import Cell, count, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.results.rescan_changes import Answer, Compared, Flip
    from scanfleet.producer.scans.rescan_changes import Missed, Report

SHOWN_FLIPS = 20  # in the table; the other formats hold all


def echo_or_write(flags: Flags, scan_id: str, *, form: str, output: Path | None) -> None:
    """Print the report of a rescan or write it to a file. Raises UnknownName, RequestError."""
    from scanfleet.db.results.rescan_changes import iter_flips
    from scanfleet.producer.reports.output import target
    from scanfleet.producer.scans.rescan_changes import WRITERS, find_report

    if form == "table" and output is not None:
        raise click.UsageError("-o does not write tables: add --format json or csv")
    with flags.ledger() as engine:
        report = find_report(engine, scan_id)
        if form == "table":
            _echo(engine, report)
        else:
            with target(output, form=form) as file:
                WRITERS[form](report, iter_flips(engine, report.rescan.id), file)
    _report_incomplete(report)


def _echo(engine: sa.Engine, report: Report) -> None:
    from scanfleet.producer.scans.rescan_changes import KINDS

    rescan = report.rescan
    echo_line(f"rescan {rescan.id} of scan {rescan.rescan_of}: check {rescan.check}, {rescan.state}")
    click.echo(f"{count(report.n_renewed, 'answer')} renewed")
    for each in report.scorers:
        echo_line(f"{each.side} answers by {_who(each)}: {count(each.n_images, 'image')}")
    for what in KINDS:
        table = report.table(what)
        if table:
            click.echo()
            click.echo(f"{what}s (rows: before, columns: now)")
            _echo_table(table)
    found = [(what, report.missed(what)) for what in KINDS]
    if found[0][1].n_others:
        click.echo()
        for what, missed in found:
            echo_line(_missed_words(what, missed))
    _echo_flips(engine, report)


def _who(scorer: Compared) -> str:
    adapter = "no adapter" if scorer.weights is None else f"adapter {scorer.adapter_id} ({scorer.weights[:12]})"
    return f"scorer {scorer.id}, {scorer.base_model} ({scorer.precision}), {adapter}"


def _echo_table(table: Mapping[tuple[str, str], int]) -> None:
    rows, columns = sorted({old for old, _ in table}), sorted({new for _, new in table})
    echo_table(("", *columns), [(old, *(table.get((old, new), 0) for new in columns)) for old in rows])


def _missed_words(what: str, missed: Missed) -> str:
    share = missed.flipped
    if share.value is None:
        return f"{what}s among the {missed.n_others} not scored again: unknown, since none was audited"
    low, high = share.interval
    return (
        f"audit: {share.k} of {share.n} {what}s flipped ({share.value:.1%}; 95 % interval {low:.1%} to {high:.1%}): "
        f"about {missed.expected}, at most {missed.at_most}, of the {missed.n_others} not scored again would flip"
    )


def _echo_flips(engine: sa.Engine, report: Report) -> None:
    from scanfleet.db.results.rescan_changes import iter_flips

    found = list(islice(iter_flips(engine, report.rescan.id, limit=SHOWN_FLIPS + 1), SHOWN_FLIPS + 1))
    if not found:
        return
    click.echo()
    header = ("before", "now", "margin", "now", "score", "now", "taken as", "uri")
    echo_table(header, map(_row, found[:SHOWN_FLIPS]), below=("taken as", "uri"))
    if len(found) > SHOWN_FLIPS:
        note(f"only the first {SHOWN_FLIPS} changes are shown: --format csv has all")


def _row(flip: Flip) -> tuple[Cell, ...]:
    old, new = flip.old, flip.new
    figures = (old.margin, new.margin, old.score, new.score)
    return (_answer(old), _answer(new), *figures, flip.drawn, flip.uri)


def _answer(answer: Answer) -> str:
    return f"{answer.decision} {answer.label}"


def _report_incomplete(report: Report) -> None:
    rescan = report.rescan
    if report.n_in_state("pending"):
        note(
            f"so far, {count(report.n_in_state('pending'), 'image')} are pending (rescan {rescan.id} is {rescan.state})"
        )
    if report.n_in_state("failed"):
        n = count(report.n_in_state("failed"), "image")
        note(f"{n} failed this time and kept the old answer (`scanfleet scans errors {rescan.id}`)")
    if report.n_off_target:
        n = count(report.n_off_target, "answer")
        note(f"{n} did not come from the champion that the rescan was made for (`scanfleet adapters ls`)")
