"""Prints the outcome of a scan: counts, answers, failures, and agreement with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import echo_line, note, printable
from scanfleet.producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.queries.scan_sums import FrameCounts
    from scanfleet.db.scans.scans import Progress, ScanInfo
    from scanfleet.db.scans.webhooks import WebhookInfo
    from scanfleet.producer.reports.agreement import Agreement
    from scanfleet.producer.reports.failures import Counts
    from scanfleet.producer.reports.summary import Summary
    from scanfleet.stats.proportions import Proportion

SHORTEST_SPAN = 1.0  # seconds; a rate over less time is noise
NAMED = 3  # scans in a warning about several


def echo_summary(summary: Summary, *, seconds: float | None = None) -> None:
    """Print the summary. seconds: how long this scoring took; None if nothing was scored now."""
    scan, done = summary.scan, summary.progress
    echo_line(f"scan {scan.id}: check {scan.check}, model {scan.model}, {scan.state}")
    # Images of an earlier scan, or duplicates within this one: they have the same bytes.
    they = "them has" if done.n_reused == 1 else "them have"
    reused = f" ({done.n_reused} of {they} the same bytes as images scored before)" if done.n_reused else ""
    words = f"{count(done.n_images, 'image')}: {done.n_verdicts} scored{reused}, {done.n_failures} failed"
    for n, word in ((done.n_cancelled, "cancelled"), (done.n_pending, "pending")):
        words += f", {n} {word}" if n else ""
    echo_line(words)
    _echo_speed(summary, seconds)
    if summary.answers:
        click.echo()
        echo_table(("decision", "label", "images"), [(*key, n) for key, n in summary.answers.items()])
        if any((decision == "flag") != (label in summary.flags) for decision, label in _decided(summary)):
            echo_line("a decision weighs all flagging labels together; the label is the single most likely one")
    if summary.frames.n_files:
        echo_line(_frames(summary.frames))
    if summary.no_boxes is not None:
        echo_line(f"no boxes: {printable(summary.no_boxes)}")
    if summary.unexplained is not None:
        n, reason = summary.unexplained.n, printable(summary.unexplained.reason)
        echo_line(f"no explanation for {count(n, 'flagged image')}: {reason}")
    if summary.failures:
        click.echo()
        echo_table(("failed at", "reason", "images"), [(*key, n) for key, n in summary.failures.items()])
    for warning in summary.warnings:
        note(warning)


def _frames(counts: FrameCounts) -> str:
    words = f"{count(counts.n_files, 'file')} with several pictures: {counts.n_scored} of {counts.n_frames} scored"
    if counts.n_partly:
        words += f"; {count(counts.n_partly, 'file')} not in full, so never clear"
    return words


def _decided(summary: Summary) -> list[tuple[str, str]]:
    """Return the decisions that a label may contradict: not reviews, and none in a check without flags."""
    return [key for key in summary.answers if summary.flags and key[0] != "review"]


def echo_renewal(scan: ScanInfo, rescans: list[ScanInfo]) -> None:
    """Print which scan this one renews, and which scans renew it."""
    if scan.rescan_of is not None:
        echo_line(f"renews   {scan.rescan_of} (`scanfleet rescan {scan.id} --report` shows what changed)")
    for each in rescans:
        click.echo(f"renewed  by {each.id}, {each.created_at:%Y-%m-%d %H:%M}, {each.state}")
    if rescans:
        note("decisions and scorers are those of the current answers; times and failures, those of the first scoring")


def report_answers(engine: sa.Engine, scan_id: str) -> None:
    """Print counts, warnings and the next commands on stderr: stdout of `scan` is the id alone."""
    from scanfleet.producer.reports.summary import summarise

    summary = summarise(engine, scan_id)
    if summary.answers:
        note(", ".join(f"{' '.join(key)} {n}" for key, n in summary.answers.items()))
        for warning in summary.warnings:
            note(warning)
        note(f"answers: `scanfleet results ls --scan {scan_id}`; images: `scanfleet scans report {scan_id} -o FILE`")


def report_warnings(engine: sa.Engine, *scan_ids: str) -> None:
    """Note what keeps the answers of scans from being relied on, each reason once."""
    from scanfleet.producer.reports.summary import summarise

    found: dict[str, list[str]] = {}
    for scan_id in scan_ids:
        for warning in summarise(engine, scan_id).warnings:
            found.setdefault(warning, []).append(scan_id)
    for warning, named in found.items():
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        note(warning if len(scan_ids) == 1 else f"{', '.join(named[:NAMED])}{more}: {warning}")


def _echo_speed(summary: Summary, seconds: float | None) -> None:
    if seconds is None:
        return
    ended = summary.progress.n_verdicts + summary.progress.n_failures
    words = [f"{seconds:.1f} s including start-up ({ended / seconds:.1f} images/s)"]
    rate = summary.times.images_per_second
    if rate is not None and summary.times["under_way"] >= SHORTEST_SPAN:
        words.append(f"{rate:.1f} images/s per worker while it had batches")
    echo_line(", ".join(words))


def echo_explanations(summary: Summary) -> None:
    """Print the scorers, and how they decide and score."""
    for entry in summary.explanations:
        click.echo()
        echo_line(f"scored by {entry.who}: {count(entry.n_images, 'image')}")
        echo_line(f"  {entry.decision}", hang=4)
        echo_line(f"  {entry.score}", hang=4)
        if entry.looks is not None:
            echo_line(f"  {entry.looks}", hang=4)
        if entry.shift is not None:
            echo_line(f"  {entry.shift}", hang=4)


def report_missing_worker(engine: sa.Engine, scan: ScanInfo, done: Progress) -> None:
    from scanfleet.producer.scans.session import missing_worker_hint

    if scan.state == "running" and done.n_pending:
        missing = missing_worker_hint(engine, model=scan.model, queue=scan.queue)
        if missing is not None:
            note(missing)


def report_webhooks(engine: sa.Engine, scan_id: str) -> None:
    """Note which addresses were not told yet that the scan has ended."""
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.webhooks import webhooks_of

    with reading(engine) as connection:
        waiting = [each for each in webhooks_of(connection, scan_id) if each.state != "sent"]
    for each in waiting:
        note(f"webhook {each.shown} is not sent: {each.last_error}; a worker tries again (`scans show {scan_id}`)")


def echo_webhooks(found: Sequence[WebhookInfo]) -> None:
    """Print who is told of the end of a scan, and whether they were."""
    for each in found:
        words = f"webhook  {printable(each.shown)}: {each.state.replace('_', ' ')}"
        if each.sent_at is not None:
            words += f" {each.sent_at:%Y-%m-%d %H:%M}"
        elif each.last_error is not None:
            words += f" after {count(each.attempts, 'attempt')}: {printable(each.last_error)}"
        echo_line(words, hang=9)


def report_refusals(engine: sa.Engine, scan: ScanInfo) -> None:
    """Note that workers refuse the champion, so that others answered."""
    from scanfleet.db.engine import reading
    from scanfleet.producer.training.refusals import refusals_text, refused_since

    with reading(engine) as connection:
        refusals = refused_since(connection, scan.check, scan.model, scan.created_at)
    if refusals:
        note(refusals_text(refusals))


def report_unused_adapter(engine: sa.Engine, scan: ScanInfo) -> None:
    """Note that the adapter in use for the check's name does not answer this version of the check."""
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.checks import get_check
    from scanfleet.producer.training.unused import unused_adapter

    with reading(engine) as connection:
        unused = unused_adapter(connection, get_check(connection, scan.check_id), scan.model)
    if unused is not None:
        note(unused)


def report_quarantine(scan_id: str, failures: Counts) -> None:
    """Note the quarantined images: they kill the process that handles them and are not retried automatically."""
    from scanfleet.producer.reports.failures import QUARANTINED, n_quarantined

    n = n_quarantined(failures)
    if not n:
        return
    present = [reason for reason in QUARANTINED if any(reason == key[1] for key in failures)]
    note(
        f"quarantined: {count(n, 'image')} that ended the process whenever tried alone ({', '.join(present)}); "
        f"never retried automatically: after an update, `scanfleet scans retry {scan_id} --reason {present[0]}`"
    )


def echo_agreement(found: Agreement, *, column: str) -> None:
    """Print the confusion matrix, and rates with 95 % intervals."""
    click.echo()
    echo_line(f"against the truth in column {column} (rows: truth, columns: answer)")
    echo_rates(found)
    if found.n_unknown:
        echo_line(f"not counted: {count(found.n_unknown, 'image')} with no label of the check in column {column}")


def echo_rates(found: Agreement) -> None:
    """Print the confusion matrix, rates, and what they leave out."""
    confusion = found.confusion()
    rows: list[tuple[str | int, ...]] = [
        (truth, *(confusion.get((truth, label), 0) for label in found.labels)) for truth in found.labels
    ]
    echo_table(("", *found.labels), [row for row in rows if any(row[1:])])
    click.echo()
    echo_line(_rate("accuracy", found.accuracy()))
    if found.flags:
        echo_line(_rate("precision of flags", found.precision("flag")))
        echo_line(_rate("recall of flags", found.recall("flag")))
        echo_line(_rate("recall of flags and reviews", found.recall("flag", "review")))
    if found.n_unanswered:
        echo_line(
            f"not counted: {count(found.n_unanswered, 'image')} with a known truth but no verdict, "
            f"of which {found.n_unanswered_flags} should have been flagged"
        )


def _rate(name: str, share: Proportion) -> str:
    if share.value is None:
        return f"{name}: undefined (0 images)"
    low, high = share.interval
    return f"{name}: {share.value:.4f} ({share.k} of {share.n}; 95 % interval {low:.4f} to {high:.4f})"
