"""`scanfleet rescan`: plan, enqueue and wait for a rescan, or report what it changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, if_stopped, note, notify_option
from scanfleet.producer.cli.progress import Display, open_display
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    from scanfleet.db.results.rescans import Aim
    from scanfleet.producer.scans.enqueue import Enqueued
    from scanfleet.producer.scans.rescan_plan import Plan, Request
    from scanfleet.producer.scans.session import Session


@click.command(short_help="Re-score images that a new adapter may answer differently.")
@click.argument("scan_id", metavar="SCAN")
@click.option("--all", "everything", is_flag=True, help="Re-score every answer, not only those that can change.")
@click.option("--band", type=click.FloatRange(min=0), metavar="LOGITS", help="What counts as near a threshold.")
@click.option("--audit", metavar="N|0.05", help="Sample of the rest; 0: none. Default: 5 %, 100 to 2000 images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample.")
@click.option("--fresh", is_flag=True, help="Start a new rescan even if the same one exists.")
@click.option("--dry-run", is_flag=True, help="Print what would be scored again; write nothing.")
@click.option("--wait", is_flag=True, help="Wait until the rescan has ended.")
@click.option("--strict", is_flag=True, help="With --wait: exit 20 if an image could not be scored.")
@notify_option
@click.option("--report", is_flag=True, help="Show what SCAN, or its newest rescan, changed.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="Report format.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Report file. Default: stdout.")
@click.pass_obj
def rescan(
    flags: Flags,
    /,
    *,
    scan_id: str,
    everything: bool,
    band: float | None,
    audit: str | None,
    seed: int,
    fresh: bool,
    dry_run: bool,
    wait: bool,
    strict: bool,
    notify: str | None,
    report: bool,
    form: str,
    output: Path | None,
) -> None:
    """Re-score the images a newly promoted adapter may answer differently. Creates a new scan and prints its id.

    Takes the answers of SCAN that are `review` or lie near a threshold, and a random sample of the rest, which shows
    how many changes are missed. Answers of the current champion are never taken. The newest verdict becomes the answer;
    the old one is kept. Safe to interrupt: run it again to resume.

    \b
    Example:
      scanfleet rescan k7m2 --wait
      scanfleet rescan k7m2 --report --format csv -o flips.csv
    """
    from scanfleet.producer.scans.rescan_plan import Request

    if report:
        from scanfleet.producer.cli.scans.rescan_changes import echo_or_write

        echo_or_write(flags, scan_id, form=form, output=output)
        return
    if output is not None or form != "table":
        raise click.UsageError("--format and -o need --report")
    if everything and (band is not None or audit is not None):
        raise click.UsageError("--all takes every answer: remove --band and --audit")
    request = Request(everything=everything, band=band, audit=_audit(audit), seed=seed, fresh=fresh)
    plan = _plan(flags, scan_id, request, quiet=dry_run)
    if dry_run:
        _show(plan)
    elif plan.n_images or plan.known:
        _run(flags, plan, wait=wait, strict=strict, notify=notify)


def _audit(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < 1 or (value >= 1 and value.is_integer())):
        raise click.BadParameter(f"{text}: give a number of images, or a fraction below 1", param_hint="--audit")
    return value


def _plan(flags: Flags, scan_id: str, request: Request, *, quiet: bool) -> Plan:
    from scanfleet.producer.scans.rescan_plan import plan_rescan

    with flags.ledger() as engine:
        plan = plan_rescan(engine, scan_id, request)
    if not plan.root.id.startswith(scan_id):
        note(f"scan {scan_id} is itself a rescan: re-scoring scan {plan.root.id}, which it renews")
    adapter = plan.aim.adapter
    if adapter is not None and adapter.check_hash != plan.check_hash:
        note(
            f"{_name(plan.aim)} is for another version of check {plan.root.check}; where the question differs, "
            "workers answer with the base model alone"
        )
    if plan.known is None and not plan.n_images:
        note(_why_nothing(plan))
    elif not quiet:
        for line in _words(plan):
            note(line)
    if plan.broad_reason is not None:
        note(f"this re-scores nearly everything: {plan.broad_reason}")
    return plan


def _why_nothing(plan: Plan) -> str:
    chosen, name = plan.filters, _name(plan.aim)
    if not plan.n_answers:
        return f"nothing to rescan: scan {plan.root.id} has no answer yet"
    if plan.n_answers == chosen["current"]:
        n = count(plan.n_answers, "answer")
        return f"nothing to rescan: scan {plan.root.id} has {n}, all by the current champion ({name})"
    left = count(chosen["audit_of"], "answer")
    return f"nothing to rescan: {left} of scan {plan.root.id} cannot change, and the audit is off (--all, --audit)"


def _name(aim: Aim) -> str:
    return "the base model alone" if aim.adapter is None else f"adapter {aim.adapter.id}"


def _words(plan: Plan) -> list[str]:
    chosen = plan.filters
    n_taken = count(chosen["changeable"], "answer")
    lines = [f"scan {plan.root.id}, for {_name(plan.aim)}: {n_taken} can change, {_audited(plan)}"]
    if chosen["band"] is not None:
        lines.append(f"answers within {chosen['band']:.2f} logits of a threshold; {plan.band_origin}")
    return lines


def _audited(plan: Plan) -> str:
    chosen = plan.filters
    return f"audit sample: {chosen['audit']} of {chosen['audit_of']} others"


def _show(plan: Plan) -> None:
    chosen = plan.filters
    band = "any" if chosen["band"] is None else f"within {chosen['band']:.2f} logits; {plan.band_origin}"
    click.echo(f"champion         {_name(plan.aim)}")
    click.echo(f"its answers      {chosen['current']}")
    click.echo(f"near             {band}")
    click.echo(f"can change       {chosen['changeable']}")
    click.echo(f"audit sample     {chosen['audit']} of {chosen['audit_of']} others")
    if plan.known is not None:
        click.echo(f"existing rescan  {plan.known.id}")


def _run(flags: Flags, plan: Plan, *, wait: bool, strict: bool, notify: str | None) -> None:
    from scanfleet.producer.scans.session import open_session

    with open_session(flags.settings(model=plan.root.model)) as session, open_display() as display:
        with if_stopped("stopped; what is enqueued is kept: run the same command to resume"):
            last = _enqueue(session, plan, display, notify=notify)
        if wait:
            with if_stopped(f"stopped waiting; the rescan continues: `scanfleet scans watch {last.scan.id}`"):
                _wait(session, last.scan.id, display, strict=strict)


def _enqueue(session: Session, plan: Plan, display: Display, *, notify: str | None) -> Enqueued:
    from scanfleet.producer.scans.rescan import enqueue_rescan
    from scanfleet.producer.scans.session import missing_worker_hint
    from scanfleet.producer.scans.wait import snapshot_of
    from scanfleet.producer.scans.webhooks import telling

    last = None
    pages = enqueue_rescan(session.engine, session.app, session.settings, plan)
    for page in telling(session.engine, session.settings, pages, url=notify):
        if last is None:
            click.echo(page.scan.id)  # at once, so that a script can follow it
        display.listed(page)
        last = page
    assert last is not None  # the first page comes before any image
    now = snapshot_of(session.engine, last.scan.id)
    if not last.n_new:
        note(f"nothing new: rescan {last.scan.id} is {now.scan.state} (--report shows it; --fresh starts a new one)")
    if last.broker_away:
        note("the broker is unavailable; the rescan is safe in the database and starts when the broker is back")
    if now.scan.state == "paused":
        note(f"the rescan is paused: `scanfleet scans resume {last.scan.id}`")
    elif now.progress.n_pending:
        missing = missing_worker_hint(session.engine, model=last.scan.model, queue=last.scan.queue)
        if missing is not None:
            note(missing)
    return last


def _wait(session: Session, scan_id: str, display: Display, *, strict: bool) -> None:
    from scanfleet.producer.cli.scans.outcome import report_refusals, report_webhooks
    from scanfleet.producer.cli.scans.scan import report_outcome
    from scanfleet.producer.scans.rescan_changes import find_report
    from scanfleet.producer.scans.wait import watch_and_reconcile

    for now in watch_and_reconcile(session.engine, session.app, session.settings, scan_id):
        display.scored(now)
    report = find_report(session.engine, scan_id)
    flipped = report.n_flipped("decision")
    note(f"{flipped} of {count(report.n_renewed, 'decision')} flipped: `scanfleet rescan {scan_id} --report`")
    report_refusals(session.engine, now.scan)
    report_webhooks(session.engine, scan_id)
    report_outcome(scan_id, now.progress, strict=strict)
