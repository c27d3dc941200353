"""`scanfleet forget`: take images out of the ledger, wherever they are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.deletion.asking import Age, require_yes
from scanfleet.producer.cli.options import Flags, if_stopped, note, printable
from scanfleet.producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.deletion.selection import Selection
    from scanfleet.producer.deletion.forgetting import Holdings

ELSEWHERE = "not known to the ledger, and yours to clean: the source itself, written exports and reports, logs, backups"


@click.command(short_help="Delete images by manifest column, name or age.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Whose column of the manifest has this value.")
@click.option("--uri-prefix", "prefix", metavar="TEXT", help="Whose uri starts with TEXT.")
@click.option("--uri", "uris", multiple=True, metavar="URI", help="This image.")
@click.option("--older-than", type=Age(), metavar="AGE", help="Scored so long ago: 90d, 12h, 4w.")
@click.option("--scan", "scans", multiple=True, metavar="SCAN", help="Of this scan alone, and its rescans.")
@click.option("--labels", "with_labels", is_flag=True, help="People's labels of these images go, too.")
@click.option("--keep-labels", is_flag=True, help="People's labels of these images stay.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def forget(
    flags: Flags,
    /,
    *,
    where: tuple[str, ...],
    prefix: str | None,
    uris: tuple[str, ...],
    older_than: timedelta | None,
    scans: tuple[str, ...],
    with_labels: bool,
    keep_labels: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete images with all their answers, for good. All options that are given must hold.

    Scans that run go on: what a worker holds of these images is dropped. A hash of each name stays, so that no scan
    takes the image again; with --older-than or --scan, so that the scan that held it does not. Where there are labels,
    say whether they go: the golden set of a check changes with them.

    Safe to interrupt: what is deleted is gone, and the same command goes on. What else may hold the images is named;
    see docs/privacy.md.

    \b
    Example:
      scanfleet forget --where advertiser=acme --dry-run
      scanfleet forget --uri-prefix s3://ads/acme/ --labels
      scanfleet forget --older-than 90d --keep-labels --yes
    """
    from scanfleet.db.deletion.removal import Removed
    from scanfleet.db.deletion.space import give_space_back
    from scanfleet.producer.deletion import forgetting

    if not (where or prefix or uris or older_than):
        raise click.UsageError("say which images: --where, --uri-prefix, --uri or --older-than")
    if with_labels and keep_labels:
        raise click.UsageError("--labels and --keep-labels contradict each other: give one")
    with flags.ledger() as engine:
        chosen = _selection(engine, where, prefix, uris, older_than, scans)
        found = forgetting.holdings(engine, chosen)
        _echo(found)
        if dry_run:
            note("nothing was deleted")
            return
        _require_decided(found, decided=with_labels or keep_labels, with_labels=with_labels)
        if not require_yes(f"Delete {count(found.n_images, 'image')} for good?", yes=yes):
            note("nothing was deleted")
            return
        done = Removed()
        with if_stopped("stopped; what is deleted is gone: run the same command to go on"):
            for page in forgetting.forget(engine, chosen, with_labels=with_labels):
                done += page
        give_space_back(engine)
    note(f"deleted: {count(done.n_images, 'image')} with {count(done.n_verdicts, 'verdict')}")
    note(ELSEWHERE)


def _selection(
    engine: sa.Engine,
    where: tuple[str, ...],
    prefix: str | None,
    uris: tuple[str, ...],
    older_than: timedelta | None,
    scans: tuple[str, ...],
) -> Selection:
    """Raises UsageError, UnknownName."""
    from scanfleet.db.deletion.selection import Selection
    from scanfleet.db.engine import now, reading
    from scanfleet.producer.cli.queries.filters import as_listed
    from scanfleet.producer.deletion.forgetting import roots_of

    columns: dict[str, str] = {}
    for text in where:
        name, is_given, value = text.partition("=")
        if not is_given or not name or columns.get(name, value) != value:
            raise click.UsageError(f"--where {text}: write COLUMN=VALUE, each column once")
        columns[name] = value
    with reading(engine) as connection:
        before = None if older_than is None else now(connection) - older_than
    return Selection(
        where=columns,
        prefix=prefix,
        uris=tuple(as_listed(uri) for uri in uris),
        before=before,
        scans=roots_of(engine, scans),
    )


def _echo(found: Holdings) -> None:
    rows = [(scan.id, scan.check, scan.state, n) for scan, n in found.images]
    if rows:
        echo_table(("scan", "check", "state", "images"), rows)
    else:
        note("no scan holds such an image")
    for each in found.labels:
        golden = f"; {each.n_golden} of the {each.n_golden_all} in its golden set" if each.n_golden else ""
        note(f"labels of check {each.check}: {count(each.n_images, 'image')}{golden}")
    if any(each.n_golden for each in found.labels):
        note("without them, figures of the gate from before and after do not compare")
    for learnt in found.adapters:
        use = "it is in use" if learnt.in_use else "it is not in use"
        note(
            f"adapter {learnt.adapter_id} was made when there were such labels, and {use}: its canary in {learnt.uri} "
            "may show some of the images. It is not changed, since workers refuse an adapter without its canary: "
            "train anew once the labels are gone, then delete its folder"
        )
    for scan_id, source in found.named_by:
        note(f"scan {scan_id} keeps its source as given, {printable(source)}, until it is deleted")


def _require_decided(found: Holdings, *, decided: bool, with_labels: bool) -> None:
    """Raises RequestError where labels are neither to go nor to stay, or a training holds them."""
    from scanfleet.errors import RequestError

    if found.labels and not decided:
        n = sum(each.n_images for each in found.labels)
        raise RequestError(
            f"{count(n, 'image')} of these have labels: --labels deletes them, too, --keep-labels does not"
        )
    if with_labels and found.trainings:
        numbers = ", ".join(map(str, found.trainings))
        raise RequestError(
            f"training {numbers} is under way with such labels, and its folder holds them: wait for it, or end it with "
            f"`scanfleet train cancel {found.trainings[0]}`"
        )
