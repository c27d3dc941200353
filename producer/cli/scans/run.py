"""`scanfleet run`: list, score and report on one machine."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import SOURCE, Flags, filter_options, if_stopped, note, require_checks
from scanfleet.producer.cli.progress import Display, open_display

if TYPE_CHECKING:
    from scanfleet.db.scans.scans import ScanInfo
    from scanfleet.producer.local.workers import LocalWorkers
    from scanfleet.producer.scans.session import Request, Session
    from scanfleet.producer.scans.wait import ScanSnapshot

STOPPED = "stopped; what is scored is kept: run the same command to resume"
POLL_SECONDS = 0.5  # between two reads of the progress while the listing continues


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...", type=SOURCE)
@filter_options
@click.option("--truth", metavar="COLUMN", help="Manifest column with the true label: print accuracy and recall.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a contact sheet (HTML); of several checks, one file each: FILE with the check in its name.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes to start.")
@click.option("--strict", is_flag=True, help="Exit 20 if an image could not be scored.")
@click.pass_obj
def run(flags: Flags, /, *, truth: str | None, report: Path | None, workers: int, strict: bool, **chosen: Any) -> None:
    """Scan images on this machine and print the results.

    Lists SRC, starts workers, waits, prints a summary and stops the workers. Sources and filters are those of
    `scanfleet scan`. Ctrl-C lets the workers finish or hand back their batches; a second Ctrl-C makes them hand back at
    once. Run the same command again to resume. Failed images don't affect the exit code unless --strict is set. A model
    that the hub does not know ends the command (exit code 26); a hub that cannot be reached is waited for.

    \b
    Example:
      scanfleet run photos/ --check overlay --report sheet.html
      scanfleet run demo/manifest.csv --check overlay --truth truth
      scanfleet run photos/ --check overlay --check logo.toml
    """
    from scanfleet.config.model_names import require_address, require_model
    from scanfleet.producer.cli.scans.outcome import (
        echo_summary,
        report_refusals,
        report_unused_adapter,
        report_webhooks,
    )
    from scanfleet.producer.cli.scans.scan import report_outcomes
    from scanfleet.producer.local.workers import LocalWorkers, require_worker_extra
    from scanfleet.producer.reports.output import require_place
    from scanfleet.producer.reports.summary import summarise
    from scanfleet.producer.scans.session import Request, free_batches, open_session, require_column
    from scanfleet.queue.app import clear_taken

    require_worker_extra()
    require_checks(chosen)
    request = Request(**chosen)
    settings = flags.settings(model=request.model)
    require_model(settings.model, elsewhere=False)
    require_address(settings)
    if report is not None:
        require_place(report)
    if truth is not None:
        require_column(request.listing(settings), truth)
    with if_stopped(STOPPED), open_session(settings) as session:
        begin = time.monotonic()
        free = partial(free_batches, session.engine)
        with LocalWorkers(settings, n=workers, say=note, on_death=free) as local, open_display() as display:
            ended, n_left_out = _score(session, request, local, display)
        clear_taken(settings)
        seconds = time.monotonic() - begin if local.logs else None
        for now in ended:
            if now is not ended[0]:
                click.echo()
            echo_summary(summarise(session.engine, now.scan.id), seconds=seconds)
            page = report if report is None or len(ended) == 1 else page_of(report, now.scan)
            _conclude(session, now, truth=truth, report=page)
            report_refusals(session.engine, now.scan)
            report_webhooks(session.engine, now.scan.id)
            report_unused_adapter(session.engine, now.scan)
        report_outcomes(ended, strict=strict, n_left_out=n_left_out)


def _score(session: Session, request: Request, local: LocalWorkers, display: Display) -> tuple[list[ScanSnapshot], int]:
    """List and score at the same time until the scans have ended; return also the number of entries left out.

    Raises WorkerDied.
    """
    from scanfleet.producer.cli.scans.scan import count_pending, report_listing
    from scanfleet.producer.scans.wait import snapshot_of, watch_and_reconcile

    last, poll_at = None, 0.0
    for last in session.enqueue(request):
        display.listed(last)
        if last.n_new:
            local.start()  # at the first page, so that a bad source starts no worker
        if time.monotonic() >= poll_at:
            now = snapshot_of(session.engine, last.scan.id, own_workers=True)
            local.check(now.progress.n_done)
            display.scored(now)
            poll_at = time.monotonic() + POLL_SECONDS
    assert last is not None  # enqueue raises EmptySource rather than yield nothing
    n_pending = count_pending(session, last)
    report_listing(last, n_pending=n_pending)
    if n_pending:
        local.start()  # nothing is new, but an earlier run left work
    ended = []
    for each in last.scans:
        for now in watch_and_reconcile(session.engine, session.app, session.settings, each.id, own_workers=True):
            display.scored(now)
            if not now.ended:
                local.check(now.progress.n_done)
                if now.progress.waiting_for:
                    local.say_why_waiting(now.progress.waiting_for)
        ended.append(now)
    return ended, last.n_left_out


def page_of(report: Path, scan: ScanInfo) -> Path:
    """Return where the sheet of one of several scans goes. Two checks may have one name, so the scan is in it.

    `sheet.html` -> `sheet-overlay-k7m2abcd.html`
    """
    return report.with_name(f"{report.stem}-{scan.check}-{scan.id}{report.suffix}")


def _conclude(session: Session, now: ScanSnapshot, *, truth: str | None, report: Path | None) -> None:
    from scanfleet.producer.cli.scans.outcome import echo_agreement
    from scanfleet.producer.reports.contact_sheet import write_report
    from scanfleet.producer.reports.summary import measure_agreement

    if truth is not None:
        found = measure_agreement(session.engine, now.scan, truth)
        echo_agreement(found, column=truth)
        truth = truth if found.cells else None  # the sheet refuses a column that tells nothing
    if report is not None:
        write_report(session.engine, session.settings, now.scan.id, report, truth_column=truth)
        click.echo()
        click.echo(f"report: {report}")
    elif now.progress.n_flagged or now.progress.n_review:
        note(f"contact sheet of flags and reviews: `scanfleet scans report {now.scan.id} -o FILE`")
