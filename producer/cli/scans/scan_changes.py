"""The commands of `scanfleet scans` that change a scan: pause, resume, cancel, retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from scanfleet.producer.cli.options import Flags, failure_options, note
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.scans.scans import ScanInfo
    from scanfleet.producer.reports.failures import Counts

T = TypeVar("T")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def pause(flags: Flags, scan_id: str) -> None:
    """Pause a scan until it is resumed.

    Workers notice within reconcile_seconds (2 by default): they write what they have scored and hand back the rest.

    \b
    Example:
      scanfleet scans pause k7m2
    """
    from scanfleet.db.scans import scans as store

    def action(connection: sa.Connection, found_id: str) -> int:
        store.pause(connection, found_id)
        return store.progress(connection, found_id).n_leased

    scan, n_leased = _change(flags, scan_id, action)
    settings = flags.settings()
    held = "no batch is under way"
    if n_leased:
        batches, are = (count(n_leased, "batch", "batches"), "is" if n_leased == 1 else "are")
        held = f"{batches} under way {are} handed back within about {settings.reconcile_seconds:g} s"
    note(f"scan {scan.id} is paused; {held} (resume it with `scanfleet scans resume {scan.id}`)")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def resume(flags: Flags, scan_id: str) -> None:
    """Resume a paused scan. Workers continue within reconcile_seconds (2 by default).

    \b
    Example:
      scanfleet scans resume k7m2
    """
    from scanfleet.db.scans import scans as store

    def action(connection: sa.Connection, found_id: str) -> bool:
        store.resume(connection, found_id)
        return store.finish_if_complete(connection, found_id)  # its last batch may have ended during the pause

    scan, done = _change(flags, scan_id, action)
    if done:
        note(f"scan {scan.id} is done: its last batch ended during the pause")
    else:
        note(f"scan {scan.id} is running; {_next_step(flags, scan)}")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def cancel(flags: Flags, scan_id: str) -> None:
    """Cancel a scan for good. What is scored stays.

    Nothing more is written from then on. Workers drop the batches they hold of it within reconcile_seconds
    (2 by default).

    \b
    Example:
      scanfleet scans cancel k7m2
    """
    from scanfleet.db.scans import scans as store

    def action(connection: sa.Connection, found_id: str) -> tuple[int, int]:
        n_leased = store.progress(connection, found_id).n_leased
        return store.cancel(connection, found_id), n_leased

    scan, (n_cancelled, n_leased) = _change(flags, scan_id, action)
    words = f"scan {scan.id} is cancelled; not scored: {count(n_cancelled, 'image')}"
    if n_leased:
        seconds = flags.settings().reconcile_seconds
        words += f"; workers drop the {count(n_leased, 'batch', 'batches')} under way within about {seconds:g} s"
    note(words)


@click.command()
@click.argument("scan_id", metavar="SCAN")
@failure_options
@click.pass_obj
def retry(flags: Flags, scan_id: str, stage: str | None, reason: str | None) -> None:
    """Retry failed images. Images with a verdict are left alone.

    `scanfleet scans errors` lists the stages and reasons.

    \b
    Example:
      scanfleet scans retry k7m2 --reason denied
    """
    from scanfleet.db.results.results import count_failures
    from scanfleet.db.scans.retries import retry_failures
    from scanfleet.producer.reports.failures import counts_text, n_chosen

    def action(connection: sa.Connection, found_id: str) -> tuple[Counts, int]:
        counts = count_failures(connection, found_id)
        n_chosen(counts, stage=stage, reason=reason)  # raises for a stage or reason that no failure has
        return counts, retry_failures(connection, found_id, stage=stage, reason=reason)

    scan, (counts, n_retried) = _change(flags, scan_id, action)
    if n_retried:
        paused = f"the scan is paused: `scanfleet scans resume {scan.id}`" if scan.state == "paused" else None
        note(f"scan {scan.id}: {count(n_retried, 'image')} pending again; {paused or _next_step(flags, scan)}")
    elif counts:
        note(f"scan {scan.id}: no failure has both; failures: {counts_text(counts)}")
    else:
        note(f"scan {scan.id}: no failures to retry")


def _next_step(flags: Flags, scan: ScanInfo) -> str:
    from scanfleet.producer.scans.session import missing_worker_hint

    with flags.ledger() as engine:
        return missing_worker_hint(engine, model=scan.model, queue=scan.queue) or "a worker will continue it"


def _change(flags: Flags, scan_id: str, action: Callable[[sa.Connection, str], T]) -> tuple[ScanInfo, T]:
    """Change a scan in one transaction, and try again after a transient error of the database."""
    from scanfleet.db.engine import transaction
    from scanfleet.db.scans import scans as store
    from scanfleet.retry import retry_database

    def attempt() -> tuple[ScanInfo, T]:
        with transaction(engine, long=True) as connection:
            scan = store.get_scan(connection, scan_id)
            return scan, action(connection, scan.id)

    with flags.ledger() as engine:
        return retry_database(attempt)
