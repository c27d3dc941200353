"""`scanfleet scans agreement`: compare the current answers with a known truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, echo_line, note
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.scans.scans import ScanInfo
    from scanfleet.producer.reports.agreement import Agreement
    from scanfleet.producer.reports.label_agreement import LabelAgreement
    from scanfleet.stats.proportions import Proportion


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.option("--truth", metavar="COLUMN", help="Manifest column with the true label.")
@click.option("--labels", is_flag=True, help="The labels that people gave: those drawn at random apart from others.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def agreement(flags: Flags, scan_id: str, truth: str | None, labels: bool, form: str) -> None:
    """Compare the answers of a scan with the true labels.

    These are a column of its manifest, or what people labelled. Prints the confusion matrix, and rates with 95 %
    intervals.

    \b
    Example:
      scanfleet scans agreement k7m2 --truth truth
      scanfleet scans agreement k7m2 --labels
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.scans import get_scan
    from scanfleet.producer.cli.scans.outcome import echo_agreement

    if truth is None and not labels:
        raise click.UsageError("Missing option '--truth' (or '--labels').")
    with flags.ledger(only_reads=True) as engine:
        with reading(engine) as connection:
            scan = get_scan(connection, scan_id)
        by_column = None if truth is None else _by_column(engine, scan, truth)
        by_labels = _by_labels(engine, scan) if labels else None
    if form == "json":
        record = {} if by_column is None else _record(by_column)
        click.echo(json.dumps(record | ({} if by_labels is None else {"labels": _of_labels(by_labels)}), indent=2))
        return
    if by_column is not None and truth is not None:
        echo_agreement(by_column, column=truth)
    if by_labels is not None:
        _echo_labels(by_labels)


def _by_column(engine: sa.Engine, scan: ScanInfo, truth: str) -> Agreement:
    from scanfleet.errors import RequestError
    from scanfleet.producer.reports.summary import measure_agreement

    found = measure_agreement(engine, scan, truth)
    if not found.cells:
        raise RequestError(f"--truth {truth}: no image of scan {scan.id} has a label of the check in that column")
    return found


def _by_labels(engine: sa.Engine, scan: ScanInfo) -> LabelAgreement:
    from scanfleet.db.engine import reading
    from scanfleet.errors import RequestError
    from scanfleet.producer.reports.label_agreement import measure_by_labels

    with reading(engine, long=True) as connection:
        found = measure_by_labels(connection, scan)
    if not (found.random.n_known or found.chosen.n_known or found.n_disputed):
        words = f"`scanfleet labels suggest --check {scan.check}` lists images to label"
        raise RequestError(f"--labels: no image of scan {scan.id} has a label of check {scan.check}: {words}")
    return found


def _echo_labels(found: LabelAgreement) -> None:
    from scanfleet.producer.cli.scans.outcome import echo_rates

    groups = (("drawn at random", found.random), ("chosen otherwise: they do not represent the archive", found.chosen))
    for name, group in groups:
        click.echo()
        echo_line(f"against the labels of {count(group.n_known, 'image')} {name} (rows: label, columns: answer)")
        if group.n_known:
            echo_rates(group)
        if group.n_unknown:
            echo_line(f"not counted: {count(group.n_unknown, 'image')} with a label that the check does not have")
    if found.n_disputed:
        echo_line(f"not counted: {count(found.n_disputed, 'image')} that people label differently")
    if not found.random.n_known:
        note(
            "no label was drawn at random: `scanfleet labels suggest` draws some; only these tell how often it is wrong"
        )
    if found.n_taught:
        note(f"{count(found.n_taught, 'image')} may have taught the adapter that answered, which flatters it")


def _of_labels(found: LabelAgreement) -> dict[str, Any]:
    groups = {
        name: {"images": group.n_known} | _record(group)
        for name, group in (("random", found.random), ("chosen", found.chosen))
    }
    return groups | {"disputed": found.n_disputed, "taught": found.n_taught}


def _record(found: Agreement) -> dict[str, Any]:
    confusion = [{"truth": key[0], "answer": key[1], "images": n} for key, n in sorted(found.confusion().items())]
    rates = {"accuracy": _rate(found.accuracy())}
    if found.flags:
        rates["precision_of_flags"] = _rate(found.precision("flag"))
        rates["recall_of_flags"] = _rate(found.recall("flag"))
        rates["recall_of_flags_and_reviews"] = _rate(found.recall("flag", "review"))
    return {"confusion": confusion, **rates, "unanswered": found.n_unanswered, "without_truth": found.n_unknown}


def _rate(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"value": share.value, "k": share.k, "n": share.n, "low": low, "high": high}
