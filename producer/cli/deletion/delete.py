"""`scanfleet scans delete`: delete scans with all that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.deletion.asking import Age, require_yes
from scanfleet.producer.cli.options import Flags, if_stopped, note
from scanfleet.producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    from scanfleet.producer.deletion.scans import Doomed


@click.command()
@click.argument("scan_ids", nargs=-1, metavar="[SCAN]...")
@click.option(
    "--older-than", type=Age(), metavar="AGE", help="Those that ended so long ago: 90d, 12h, 4w. Of all, or of SCAN."
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(flags: Flags, scan_ids: tuple[str, ...], older_than: timedelta | None, dry_run: bool, yes: bool) -> None:
    """Delete scans with their images, answers and failures, for good.

    The rescans of a scan go with it. A rescan can go alone: the answers that it gave stay where they stand. A scan that
    runs is refused. By age, a scan goes once its rescans are as old.

    Safe to interrupt: what is deleted is gone, and the same command goes on. Labels, adapters and exported files stay
    (docs/privacy.md).

    \b
    Example:
      scanfleet scans delete k7m2 --dry-run
      scanfleet scans delete --older-than 90d --yes
    """
    from scanfleet.db.deletion.removal import Removed
    from scanfleet.db.deletion.space import give_space_back
    from scanfleet.producer.deletion.scans import delete_scan, plan_deletion

    if not scan_ids and older_than is None:
        raise click.UsageError("name scans, or give --older-than")
    with flags.ledger() as engine:
        doomed = plan_deletion(engine, scan_ids, older_than=older_than)
        _echo(doomed)
        if not doomed or dry_run:
            note("nothing was deleted" if doomed else "no scan to delete")
            return
        if not require_yes(f"Delete {count(len(doomed), 'scan')} for good?", yes=yes):
            note("nothing was deleted")
            return
        done = Removed()
        with if_stopped("stopped; what is deleted is gone: run the same command to go on"):
            for each in doomed:
                for page in delete_scan(engine, each.scan.id):
                    done += page
        give_space_back(engine)
    kept = f"; {count(done.n_kept, 'answer')} of rescans stay where they stand" if done.n_kept else ""
    gone = f"{count(len(doomed), 'scan')}, {count(done.n_images, 'image')}, {count(done.n_verdicts, 'verdict')}"
    note(f"deleted: {gone}{kept}")


def _echo(doomed: Sequence[Doomed]) -> None:
    if not doomed:
        return
    rows = [
        (
            each.scan.id,
            each.scan.check,
            each.scan.state,
            each.progress.n_images,
            f"{each.scan.created_at:%Y-%m-%d}",
            ", ".join(each.scan.sources) if each.scan.rescan_of is None else f"rescan of {each.scan.rescan_of}",
        )
        for each in doomed
    ]
    echo_table(("scan", "check", "state", "images", "started", "sources"), rows, below=("started", "sources"))
    for each in doomed:
        if not each.named:
            note(f"{each.scan.id} goes with {each.scan.rescan_of}, whose answers it renewed")
