"""`scanfleet scans agreement`: compare the current answers with a known truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags

if TYPE_CHECKING:
    from scanfleet.producer.reports.agreement import Agreement
    from scanfleet.stats.proportions import Proportion


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.option("--truth", required=True, metavar="COLUMN", help="Manifest column with the true label.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def agreement(flags: Flags, scan_id: str, truth: str, form: str) -> None:
    """Compare the answers of a scan with the true labels.

    The true labels are a column of its manifest. Prints the confusion matrix, and rates with 95 % intervals.

    \b
    Example:
      scanfleet scans agreement k7m2 --truth truth
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.scans import get_scan
    from scanfleet.errors import RequestError
    from scanfleet.producer.cli.scans.outcome import echo_agreement
    from scanfleet.producer.reports.summary import measure_agreement

    with flags.ledger() as engine:
        with reading(engine) as connection:
            scan = get_scan(connection, scan_id)
        found = measure_agreement(engine, scan, truth)
    if not found.cells:
        raise RequestError(f"--truth {truth}: no image of scan {scan.id} has a label of the check in that column")
    if form == "json":
        click.echo(json.dumps(_record(found), indent=2))
    else:
        echo_agreement(found, column=truth)


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
