"""The commands of `scanfleet scans` that change a scan: pause, resume, cancel, retry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from producer.cli.common import Flags, note
from producer.cli.tables import count

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.store.scans import ScanInfo

T = TypeVar("T")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def pause(flags: Flags, scan_id: str) -> None:
    """Let no worker take more of a scan; batches under way end normally.

    \b
    Example:
      scanfleet scans pause k7m2
    """
    from scanfleet.store import scans as store

    scan, _ = _change(flags, scan_id, store.pause)
    note(f"scan {scan.id} is paused")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def resume(flags: Flags, scan_id: str) -> None:
    """Let a paused scan go on.

    \b
    Example:
      scanfleet scans resume k7m2
    """
    from scanfleet.store import scans as store

    def action(connection: sa.Connection, found_id: str) -> bool:
        store.resume(connection, found_id)
        return store.finish_if_complete(connection, found_id)  # its last batch may have ended during the pause

    scan, done = _change(flags, scan_id, action)
    note(f"scan {scan.id} is {'done' if done else 'running; a worker or `scan --wait` takes it up'}")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.pass_obj
def cancel(flags: Flags, scan_id: str) -> None:
    """End a scan for good. What is scored stays.

    \b
    Example:
      scanfleet scans cancel k7m2
    """
    from scanfleet.store import scans as store

    scan, n_cancelled = _change(flags, scan_id, store.cancel)
    note(f"scan {scan.id} is cancelled; not scored: {count(n_cancelled, 'image')}")


@click.command()
@click.argument("scan_id", metavar="SCAN")
@click.option("--stage", metavar="STAGE", help="Only failures of this stage: fetch, decode, score ...")
@click.option("--reason", metavar="REASON", help="Only failures for this reason: gone, truncated ...")
@click.pass_obj
def retry(flags: Flags, scan_id: str, stage: str | None, reason: str | None) -> None:
    """Give failed images another chance.

    \b
    Example:
      scanfleet scans retry k7m2 --reason denied
    """
    from scanfleet.store.retries import retry_failures

    scan, n_retried = _change(flags, scan_id, partial(retry_failures, stage=stage, reason=reason))
    note(f"scan {scan.id}: {count(n_retried, 'image')} pending again")


def _change(flags: Flags, scan_id: str, action: Callable[[sa.Connection, str], T]) -> tuple[ScanInfo, T]:
    """Do something to a scan in one transaction; again when the database could not do it at this moment."""
    from producer.patience import patiently
    from scanfleet.store import scans as store
    from scanfleet.store.engine import transaction

    def attempt() -> tuple[ScanInfo, T]:
        with transaction(engine) as connection:
            scan = store.get_scan(connection, scan_id)
            return scan, action(connection, scan.id)

    with flags.ledger() as engine:
        return patiently(attempt)
