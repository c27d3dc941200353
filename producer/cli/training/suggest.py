"""`scanfleet labels suggest`: choose images to label next."""

from __future__ import annotations

from pathlib import Path

import click

from scanfleet.producer.cli.options import Flags, note, require_csv, spreadsheet_option
from scanfleet.producer.cli.tables import count


@click.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="Check to label for.")
@click.option("--scan", "scan_id", metavar="SCAN", help="Only images of this scan. Default: every scan of the check.")
@click.option("-n", "n", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Number of images.")
@click.option(
    "--mix",
    default="threshold=.4,disagreement=.2,diversity=.1,random=.3",
    show_default=True,
    metavar="PART=SHARE,...",
    help="How images are chosen; the shares sum to 1.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random sample.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write. Default: stdout.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "labelstudio"]), default="csv", show_default=True)
@spreadsheet_option
@click.pass_obj
def suggest(
    flags: Flags,
    check_name: str,
    scan_id: str | None,
    n: int,
    mix: str,
    seed: int,
    output: Path | None,
    form: str,
    spreadsheet: bool,
) -> None:
    """Choose images to label next.

    Writes a file with an empty column `label` for you to fill in. threshold: near a decision threshold; disagreement:
    two scorers differ; diversity: unlike the others; random: a uniform sample of all unlabelled images, the only part
    that tells how often answers are wrong. What one part lacks goes to the next. Keep column `drawn` for the import.
    --format labelstudio writes tasks with the answers as predictions.

    \b
    Example:
      scanfleet labels suggest --check overlay -n 100 -o next.csv
      scanfleet labels import next.csv --check overlay
    """
    from scanfleet.db.drift.reference import checks_with_scans
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.checks import resolve_check
    from scanfleet.db.scans.scans import get_scan
    from scanfleet.errors import RequestError
    from scanfleet.producer.labels.suggest import read_mix, write_suggestions
    from scanfleet.producer.labels.suggest import suggest as choose
    from scanfleet.producer.reports.output import require_place, target

    require_csv(form, spreadsheet=spreadsheet)
    shares = read_mix(mix)
    if output is not None:
        require_place(output)
    with flags.ledger() as engine, reading(engine, long=True) as connection:
        if check_name not in checks_with_scans(connection):
            check_name = resolve_check(connection, check_name).name
        scan = None if scan_id is None else get_scan(connection, scan_id)
        if scan is not None and scan.check != check_name:
            raise RequestError(f"scan {scan.id} is of check {scan.check}, not of {check_name}")
        only = None if scan is None else scan.id
        found = choose(connection, check_name, scan_id=only, n=n, mix=shares, seed=seed)
    if not found.images:
        where = f"scan {scan.id}" if scan is not None else "the ledger"
        note(f"nothing to suggest: {where} has no unlabelled image with an answer of check {check_name}")
        return
    with target(output, form=form) as file:
        write_suggestions(found.images, file, form=form, spreadsheet=spreadsheet)
    for words in found.notes:
        note(words)
    parts = ", ".join(f"{part} {n_part}" for part, n_part in found.counts().items())
    note(f"{count(len(found.images), 'image')} of {found.n_pool} unlabelled: {parts}")
