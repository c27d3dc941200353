"""`scanfleet scans`: list, show, watch and report scans; the commands that change one are in scan_changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.deletion.delete import delete
from scanfleet.producer.cli.options import Flags, ScanfleetGroup, echo_line, failure_options, note, printable
from scanfleet.producer.cli.queries.filters import FunctionT, read_filter, wanted_options
from scanfleet.producer.cli.scans.scan_changes import cancel, pause, resume, retry
from scanfleet.producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    from scanfleet.db.scans.scans import Progress, ScanInfo


def wanted_of_scan(command: FunctionT) -> FunctionT:
    """Add the options that choose results, but for those that a scan answers."""
    command = wanted_options(command)
    given = command.__click_params__  # type: ignore[attr-defined]
    given[:] = [option for option in given if not {"--scan", "--check", "--model"} & {*option.opts}]
    return command


form_option = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group(cls=ScanfleetGroup)
def scans() -> None:
    """List, watch, pause, resume, cancel, retry and delete scans.

    Name a scan by its id, or by any unique prefix of it.

    \b
    Example:
      scanfleet scans ls
    """


@scans.command("ls")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show only the newest.")
@form_option
@click.pass_obj
def list_scans(flags: Flags, limit: int, form: str) -> None:
    """List scans, the newest first.

    State `no worker`: the scan is running, but no live worker serves its model.

    \b
    Example:
      scanfleet scans ls --limit 5
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.scans import scans as store
    from scanfleet.db.scans.workers import live_workers
    from scanfleet.producer.scans.session import SILENT_SECONDS

    with flags.ledger() as engine, reading(engine) as connection:
        found = store.list_progress(connection, limit=limit)
        served = {worker.queue for worker in live_workers(connection, silent_seconds=SILENT_SECONDS)}
    if form == "json":
        click.echo(json.dumps([_record(scan, done) for scan, done in found], indent=2))
        return
    counts = ("images", "scored", "flagged", "review", "failed")
    header = ("scan", "check", "model", "state", *counts, "started", "sources")
    echo_table(header, [_row(scan, done, served) for scan, done in found], below=("model", "started", "sources"))
    if not found:
        note("no scan yet: start one with `scanfleet scan SRC --check NAME`")


@scans.command()
@click.argument("scan_id", metavar="SCAN")
@form_option
@click.pass_obj
def show(flags: Flags, scan_id: str, form: str) -> None:
    """Show one scan.

    Prints settings, counts, answers, failures, and where the time went.

    \b
    Example:
      scanfleet scans show k7m2 --format json
    """
    from scanfleet.db.drift.reference import alarms_of_scan
    from scanfleet.db.engine import reading
    from scanfleet.db.scans import scans as store
    from scanfleet.db.scans.webhooks import webhooks_of
    from scanfleet.producer.cli.scans import outcome
    from scanfleet.producer.cli.scans.limits import echo_money, money
    from scanfleet.producer.cli.scans.times import echo_times
    from scanfleet.producer.reports.failures import n_quarantined
    from scanfleet.producer.reports.summary import summarise

    with flags.ledger() as engine:
        summary = summarise(engine, scan_id)
        with reading(engine) as connection:
            rescans = store.list_rescans(connection, summary.scan.id)
            alarms = alarms_of_scan(connection, summary.scan.check, summary.scan.id)
            hooks = webhooks_of(connection, summary.scan.id)
        spent = money(engine, summary.scan.id, flags.settings())
        if form == "table":
            outcome.report_missing_worker(engine, summary.scan, summary.progress)
            outcome.report_unused_adapter(engine, summary.scan)
    if form == "json":
        answers = [{"decision": key[0], "label": key[1], "images": n} for key, n in summary.answers.items()]
        failures = [{"stage": key[0], "reason": key[1], "images": n} for key, n in summary.failures.items()]
        more = {"answers": answers, "failures": failures, "quarantined": n_quarantined(summary.failures)}
        more["scorers"] = [asdict(scorer) for scorer in summary.scorers]
        more["frames"] = asdict(summary.frames)
        more["times"] = summary.times.record()
        more["rescans"] = [each.id for each in rescans]
        more["alarms"] = alarms
        more["warnings"] = summary.warnings
        more["webhooks"] = [asdict(hook) for hook in hooks]
        record = _record(summary.scan, summary.progress) | more | spent
        click.echo(json.dumps(record, indent=2, default=str))
        return
    outcome.echo_summary(summary)
    outcome.echo_explanations(summary)
    echo_times(summary.times)
    echo_money(spent)
    outcome.report_quarantine(summary.scan.id, summary.failures)
    click.echo()
    for source in summary.scan.sources:
        echo_line(f"source   {source}", hang=9)
    for name, value in summary.scan.filters.items():
        echo_line(f"{name:8} {value}", hang=9)
    outcome.echo_renewal(summary.scan, rescans)
    outcome.echo_webhooks(hooks)
    if summary.scan.n_listed is None:
        command = "scan" if summary.scan.rescan_of is None else "rescan"
        note(f"the listing is incomplete: run `scanfleet {command}` with the same arguments to resume it")
    if summary.progress.waiting_for:
        echo_line(f"waiting for: {printable(summary.progress.waiting_for)}")
    if alarms:
        others = f" (and {len(alarms) - 1} more)" if len(alarms) > 1 else ""
        note(f"alarm: {alarms[0]}{others}: `scanfleet drift --scan {summary.scan.id}` shows the figures")


@scans.command()
@click.argument("scan_id", metavar="SCAN")
@click.option("--strict", is_flag=True, help="Exit 20 if an image could not be scored.")
@click.pass_obj
def watch(flags: Flags, scan_id: str, strict: bool) -> None:
    """Follow a scan until it ends. Ctrl-C does not affect the scan.

    \b
    Example:
      scanfleet scans watch k7m2
    """
    from scanfleet.producer.cli.progress import open_display
    from scanfleet.producer.cli.scans.outcome import report_answers, report_missing_worker
    from scanfleet.producer.cli.scans.scan import report_outcome
    from scanfleet.producer.scans.wait import snapshot_of
    from scanfleet.producer.scans.wait import watch as follow

    with flags.ledger() as engine:
        first = snapshot_of(engine, scan_id)
        report_missing_worker(engine, first.scan, first.progress)
        with open_display() as display:
            for now in follow(engine, scan_id, every_seconds=1.0):
                display.scored(now)
        report_answers(engine, now.scan.id)
        report_outcome(now.scan.id, now.progress, strict=strict)


@scans.command()
@click.argument("scan_id", metavar="SCAN")
@failure_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Most images to show.")
@form_option
@click.pass_obj
def errors(flags: Flags, scan_id: str, stage: str | None, reason: str | None, limit: int, form: str) -> None:
    """Show which images could not be scored, and why.

    \b
    Example:
      scanfleet scans errors k7m2 --stage decode
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.results import results
    from scanfleet.db.scans import scans as store
    from scanfleet.producer.cli.scans.outcome import report_quarantine
    from scanfleet.producer.reports.failures import n_chosen

    with flags.ledger() as engine, reading(engine) as connection:
        scan = store.get_scan(connection, scan_id)
        counts = results.count_failures(connection, scan.id)
        n_all = n_chosen(counts, stage=stage, reason=reason)
        failed = results.list_failures(connection, scan.id, stage=stage, reason=reason, limit=limit)
    rows = [(each.failure.stage, each.failure.reason, each.uri, each.failure.detail) for each in failed if each.failure]
    if form == "json":
        names = ("stage", "reason", "uri", "detail")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
        return
    if not counts:
        note(f"scan {scan.id}: no failures")
        return
    echo_table(("failed at", "reason", "images"), [(*key, n) for key, n in counts.items()])
    if rows:
        click.echo()
        echo_table(("failed at", "reason", "image", "detail"), rows, below=("image", "detail"))
    if len(rows) < n_all:
        note(f"{len(rows)} of {count(n_all, 'image')} are shown: --limit shows more")
    report_quarantine(scan.id, counts)


@scans.command()
@click.argument("scan_id", metavar="SCAN")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The HTML file.")
@wanted_of_scan
@click.option("--truth", metavar="COLUMN", help="Manifest column with the true label: shows what contradicts it.")
@click.option("--wrong", is_flag=True, help="Only answers that the truth, or a label of the ledger, contradicts.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(["score", "lowest", "doubt", "name"]),
    help="Highest score first, lowest score, least sure, or file name. Default: score; wrong answers: the surest.",
)
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Most images to show.")
@click.pass_obj
def report(flags: Flags, /, *, scan_id: str, output: Path, truth: str | None, limit: int, **chosen: Any) -> None:
    """Write a contact sheet: figures, and images to look at.

    It is one self-contained HTML file, below 30 MB for up to 2,000 images: counts, rates where the truth is known, a
    histogram, and where the time went; then wrong answers, reviews and flags, in equal shares of --limit. Options on
    the answer (--decision, --label, --state, --reason, scores) show all that match instead, clear ones too. The other
    options narrow the figures as well. Reads every image of the scan, page by page.

    \b
    Example:
      scanfleet scans report k7m2 -o sheet.html
      scanfleet scans report k7m2 -o wrong.html --truth kind --wrong
      scanfleet scans report k7m2 -o b.html --decision review --sort doubt
    """
    from scanfleet.producer.reports.contact_sheet import write_report

    wrong, order = chosen.pop("wrong"), chosen.pop("order")
    with flags.ledger() as engine:
        wanted = read_filter(engine, chosen)
        write_report(
            engine,
            flags.settings(),
            scan_id,
            output,
            truth_column=truth,
            max_images=limit,
            wanted=wanted,
            wrong=wrong,
            order=order,
        )
    click.echo(output)


for change in (pause, resume, cancel, retry, delete):
    scans.add_command(change)


def _row(scan: ScanInfo, done: Progress, served: set[str]) -> tuple[str | int, ...]:
    sources = ", ".join(scan.sources) if scan.rescan_of is None else f"rescan of {scan.rescan_of}"
    counts = (done.n_images, done.n_verdicts, done.n_flagged, done.n_review, done.n_failures)
    waits = scan.state == "running" and done.n_pending and scan.queue not in served
    state = "no worker" if waits else scan.state
    return (scan.id, scan.check, scan.model, state, *counts, f"{scan.created_at:%Y-%m-%d %H:%M}", sources)


def _record(scan: ScanInfo, done: Progress) -> dict[str, Any]:
    return {
        "scan": scan.id,
        "check": scan.check,
        "model": scan.model,
        "state": scan.state,
        "rescan_of": scan.rescan_of,
        "sources": list(scan.sources),
        "filters": scan.filters,
        "listed": scan.n_listed,
        "images": done.n_images,
        "scored": done.n_verdicts,
        "reused": done.n_reused,
        "flagged": done.n_flagged,
        "review": done.n_review,
        "failed": done.n_failures,
        "cancelled": done.n_cancelled,
        "pending": done.n_pending,
        "waiting_for": done.waiting_for,
        "created_at": scan.created_at.isoformat(),
        "finished_at": scan.finished_at and scan.finished_at.isoformat(),
    }
