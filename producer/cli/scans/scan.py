"""`scanfleet scan`: enqueue an archive for the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import SOURCE, Flags, filter_options, if_stopped, note, require_checks
from scanfleet.producer.cli.progress import Display, open_display
from scanfleet.producer.cli.scans.limits import echo_forecast, limit_options, take_limits
from scanfleet.producer.cli.tables import count, size_text

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks.check import Check
    from scanfleet.config.settings import Settings
    from scanfleet.db.fleet.rates import Rate
    from scanfleet.db.scans.scans import Progress, ScanInfo
    from scanfleet.producer.scans.enqueue import Enqueued
    from scanfleet.producer.scans.session import Request, Session
    from scanfleet.producer.scans.wait import ScanSnapshot


@click.command(short_help="Add the images in SRC to the queue and notify the workers.")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...", type=SOURCE)
@filter_options
@limit_options
@click.option("--dry-run", is_flag=True, help="Print what would be scanned; write nothing.")
@click.option("--wait", is_flag=True, help="Wait until the scan has ended.")
@click.option("--strict", is_flag=True, help="With --wait: exit 20 if an image could not be scored.")
@click.pass_obj
def scan(flags: Flags, /, *, dry_run: bool, wait: bool, strict: bool, **chosen: Any) -> None:
    """Add the images in SRC to the queue and notify the workers. Prints the scan's id.

    With several checks it prints a line for each scan, with its id and its check.

    Safe to interrupt: run it again to resume. Run it later to add only new images.

    SRC is a folder, s3://bucket/prefix, an image, a .tar or .zip file, the manifest.json of an S3 Inventory, or a
    manifest: .txt (one uri per line), .csv, .tsv, .jsonl or .parquet (column or field `uri`; the others are kept with
    the image), also as .gz. A uri may be shard.tar#member, or an https:// address of the setting https_hosts. A glob is
    matched against the path below SRC, and its * also matches /. Entries that name no image are left out and listed.
    Failed images don't affect the exit code unless --strict is set.

    \b
    Example:
      scanfleet scan s3://ads/2026/ --check overlay
      scanfleet scan photos/ --check overlay --exclude 'thumbs/*' --dry-run
      scanfleet scan photos/ --pack ads.toml --wait
    """
    from scanfleet.config.diagnosis import local_broker_warning
    from scanfleet.config.model_names import require_model
    from scanfleet.producer.cli.scans.outcome import report_unused_adapter
    from scanfleet.producer.scans.session import Request, open_session

    require_checks(chosen)
    settings = flags.settings(model=chosen["model"])
    limits = take_limits(chosen, settings)
    request = Request(**chosen)
    require_model(settings.model, elsewhere=settings.database_url is not None)
    if dry_run:
        _show_preview(request, settings)
        return
    lonely = local_broker_warning(settings)
    if lonely is not None:
        note(lonely)
    with open_session(settings) as session, open_display() as display:
        with if_stopped("stopped; what is listed is kept: run the same command to resume"):
            last = _enqueue(session, request, display, limits)
        _report_missing_worker(session, last)
        for each in last.scans:
            report_unused_adapter(session.engine, each)
        if wait:
            _wait(session, last, display, strict=strict)


def _enqueue(session: Session, request: Request, display: Display, limits: dict[str, float]) -> Enqueued:
    last = None
    for page in session.enqueue(request):
        if last is None:
            if limits:
                _limit(session, page, limits)
            echo_scans(page.scans)  # at once, so that a script can follow the scan while it is listed
        display.listed(page)
        last = page
    assert last is not None  # enqueue raises EmptySource rather than yield nothing
    if limits:
        last = _as_it_is(session, last)
    report_listing(last, n_pending=count_pending(session, last))
    return last


def _as_it_is(session: Session, last: Enqueued) -> Enqueued:
    """Return the same with the scans of now: a higher limit lets a paused one go on."""
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.scans import get_scan

    with reading(session.engine) as connection:
        return replace(last, scans=tuple(get_scan(connection, each.id) for each in last.scans))


def _limit(session: Session, page: Enqueued, limits: dict[str, float]) -> None:
    from scanfleet.db.engine import transaction
    from scanfleet.db.fleet.limits import set_limits

    with transaction(session.engine) as connection:
        for each in page.scans:
            set_limits(connection, each.id, limits)


def echo_scans(scans: Sequence[ScanInfo]) -> None:
    """Print the id of a scan; of several, a line for each with its check."""
    for each in scans:
        click.echo(each.id if len(scans) == 1 else f"{each.id}  {each.check}")


def count_pending(session: Session, last: Enqueued) -> int:
    """Return how many images of all these scans are not scored yet."""
    from scanfleet.producer.scans.wait import snapshot_of

    return sum(snapshot_of(session.engine, each.id).progress.n_pending for each in last.scans)


def report_listing(last: Enqueued, *, n_pending: int) -> None:
    """Note the outcome of a listing. n_pending: images of its scans that are not scored yet."""
    if last.n_skipped:
        note(f"skipped: {count(last.n_skipped, 'file')} without an image suffix or by a filter (--include adds them)")
    _note_left_out(last.n_left_out, last.left_out)
    if last.n_forgotten:
        note(f"left out: {count(last.n_forgotten, 'image')} that `scanfleet forget` deleted")
    _note_idle(last.idle_excludes)
    if not last.n_new:
        ids = ", ".join(each.id for each in last.scans)
        one = len(last.scans) == 1
        these = "the others" if last.n_forgotten else "these images"
        held = f"nothing new: {'scan' if one else 'scans'} {ids} already {'holds' if one else 'hold'} {these}"
        if n_pending:
            resumes = "" if any(each.state == "paused" for each in last.scans) else f" and resume{'s' if one else ''}"
            note(f"{held}{resumes} ({n_pending} pending; --fresh starts a new one)")
        else:
            note(f"{held} (--fresh starts a new one)")
    if last.broker_away:
        note("the broker is unavailable; the scan is safe in the database and starts when the broker is back")
    for each in last.scans:
        if each.state == "paused":
            note(f"the scan is paused: `scanfleet scans resume {each.id}`")


def _note_left_out(n: int, shown: tuple[str, ...]) -> None:
    if n:
        note(f"left out: {n} {'entry' if n == 1 else 'entries'} that {'names' if n == 1 else 'name'} no image")
    for words in shown:
        note(f"  {words}")
    if n > len(shown):
        note(f"  and {n - len(shown)} more")


def _note_idle(globs: tuple[str, ...]) -> None:
    for glob in globs:
        note(f"--exclude {glob} matched nothing (globs are matched against the path below SRC)")


def _report_missing_worker(session: Session, last: Enqueued) -> None:
    from scanfleet.producer.scans.session import missing_worker_hint

    if count_pending(session, last):
        missing = missing_worker_hint(session.engine, model=last.scan.model, queue=last.scan.queue)
        if missing is not None:
            note(missing)


def _wait(session: Session, last: Enqueued, display: Display, *, strict: bool) -> None:
    """Wait for one scan after the other: those of a pass advance together."""
    from scanfleet.producer.cli.scans.outcome import report_answers, report_refusals, report_webhooks
    from scanfleet.producer.scans.wait import watch_and_reconcile

    ended = []
    for each in last.scans:
        with if_stopped(f"stopped waiting; the scan continues: `scanfleet scans watch {each.id}`"):
            for now in watch_and_reconcile(session.engine, session.app, session.settings, each.id):
                display.scored(now)
        if len(last.scans) > 1:
            note(f"scan {each.id}: check {each.check}")
        report_answers(session.engine, each.id)
        report_refusals(session.engine, now.scan)
        report_webhooks(session.engine, each.id)
        ended.append(now)
    report_outcomes(ended, strict=strict, n_left_out=last.n_left_out)


def report_outcomes(ended: Sequence[ScanSnapshot], *, strict: bool, n_left_out: int) -> None:
    """Note the outcome of each scan. Raises ScanIncomplete, after the last one, as `report_outcome` does."""
    from scanfleet.errors import ScanIncomplete

    incomplete = []
    for now in ended:
        try:
            report_outcome(now.scan.id, now.progress, strict=strict, n_left_out=n_left_out)
        except ScanIncomplete as error:
            incomplete.append(str(error))
    if incomplete:
        raise ScanIncomplete("; ".join(dict.fromkeys(incomplete)))


def report_outcome(scan_id: str, done: Progress, *, strict: bool, n_left_out: int = 0) -> None:
    """Note cancelled and failed images. Raises ScanIncomplete if any failed or was left out and `strict` is set."""
    from scanfleet.errors import ScanIncomplete

    if done.n_cancelled:
        note(f"scan {scan_id} was cancelled; not scored: {count(done.n_cancelled, 'image')}")
    if not done.n_failures:
        if strict and n_left_out:
            raise ScanIncomplete(f"left out: {n_left_out} of the entries listed (--strict)")
        return
    words = f"could not be scored: {count(done.n_failures, 'image')} (`scanfleet scans errors {scan_id}`)"
    if strict:
        raise ScanIncomplete(words)
    note(words)


def _show_preview(request: Request, settings: Settings) -> None:
    from scanfleet.producer.scans.session import existing_ledger, find_checks, preview

    with existing_ledger(settings) as engine:
        checks = find_checks(engine, request)
        found = preview(engine, request.listing(settings), checks=checks, model=settings.model)
        rate = _last_rate(engine, settings.model)
    unsized = f" ({found.n_unsized} of unknown size)" if found.n_unsized else ""
    click.echo(f"images          {found.n_images}")
    click.echo(f"bytes           {found.n_bytes} ({size_text(found.n_bytes)}){unsized}")
    several = len(checks) > 1
    for check, n_scored in zip(checks, found.n_scored, strict=True):
        click.echo(f"already scored  {n_scored}" + (f" by {check.name}" if several else ""))
    click.echo(f"skipped         {found.n_skipped}")
    echo_forecast(rate, sum(found.n_images - n_scored for n_scored in found.n_scored), settings)
    if several:
        _echo_passes(checks, settings.model)
    most = max(check.frames.max for check in checks)
    if found.n_several and most > 1:
        files = count(found.n_several, "file")
        note(f"{files} may hold several pictures, by name: each that does costs up to {most} times as much")
    _note_left_out(found.n_left_out, found.left_out)
    _note_idle(found.idle_excludes)


def _last_rate(engine: sa.Engine | None, model: str) -> Rate | None:
    from scanfleet.db.engine import reading
    from scanfleet.db.fleet.rates import last_rate

    if engine is None:
        return None
    with reading(engine) as connection:
        return last_rate(connection, model)


def _echo_passes(checks: Sequence[Check], model: str) -> None:
    """Print how often the images are read, and by which checks."""
    from scanfleet.checks.passes import plan_passes

    planned = plan_passes(checks, model=model)
    click.echo(f"passes          {len(planned)}")
    for each in planned:
        first = each.checks[0]
        at_most = f"at most {first.max_pixels} pixels" + (f", at least {first.min_pixels}" if first.min_pixels else "")
        why = f"by itself: {each.alone}" if each.alone else f"{at_most}, {count(first.frames.max, 'frame')}"
        click.echo(f"  {', '.join(check.name for check in each.checks)}  ({why})")
