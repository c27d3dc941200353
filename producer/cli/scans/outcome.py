"""Prints what a scan came to: counts, answers, failures, and how far the answers agree with a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from producer.cli.options import note, printable, say
from producer.cli.tables import count, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from producer.reports.agreement import Agreement
    from producer.reports.failures import Counts
    from producer.reports.summary import Summary
    from scanfleet.db.scans.scans import Progress, ScanInfo
    from scanfleet.stats.proportions import Proportion

SHORTEST_SPAN = 1.0  # seconds; a rate over less is noise


def echo_summary(summary: Summary, *, seconds: float | None = None) -> None:
    """`seconds`: how long this scoring took; None when it was done before."""
    scan, done = summary.scan, summary.progress
    say(f"scan {scan.id}: check {scan.check}, model {scan.model}, {scan.state}")
    # An earlier scan's images, or twins within this one: what they have in common is the bytes.
    they = "them has" if done.n_reused == 1 else "them have"
    reused = f" ({done.n_reused} of {they} the same bytes as images scored before)" if done.n_reused else ""
    words = f"{count(done.n_images, 'image')}: {done.n_verdicts} scored{reused}, {done.n_failures} failed"
    for n, word in ((done.n_cancelled, "cancelled"), (done.n_pending, "pending")):
        words += f", {n} {word}" if n else ""
    say(words)
    _echo_speed(summary, seconds)
    if summary.answers:
        click.echo()
        echo_table(("decision", "label", "images"), [(*key, n) for key, n in summary.answers.items()])
        if any((decision == "flag") != (label in summary.flags) for decision, label in _decided(summary)):
            say("a decision weighs all flagging labels together; the label is the single most likely one")
    if summary.no_boxes is not None:
        say(f"no boxes: {printable(summary.no_boxes)}")
    if summary.failures:
        click.echo()
        echo_table(("failed at", "reason", "images"), [(*key, n) for key, n in summary.failures.items()])
    for warning in summary.warnings:
        note(warning)


def _decided(summary: Summary) -> list[tuple[str, str]]:
    """Decisions that a label may contradict: a review leaves both open, and without flags there are none."""
    return [key for key in summary.answers if summary.flags and key[0] != "review"]


def echo_renewal(scan: ScanInfo, rescans: list[ScanInfo]) -> None:
    """Which scan this one renews, and which ones renew it."""
    if scan.rescan_of is not None:
        say(f"renews   {scan.rescan_of} (`scanfleet rescan {scan.id} --report` shows what changed)")
    for each in rescans:
        click.echo(f"renewed  by {each.id}, {each.created_at:%Y-%m-%d %H:%M}, {each.state}")
    if rescans:
        note("decisions and scorers are those of the current answers; times and failures, those of the first scoring")


def say_answers(engine: sa.Engine, scan_id: str) -> None:
    """Counts by decision and label, and where to read on, on stderr: `scan` prints its id alone to stdout."""
    from scanfleet.db.engine import reading
    from scanfleet.db.results.results import count_answers

    with reading(engine, long=True) as connection:
        answers = count_answers(connection, scan_id)
    if answers:
        note(", ".join(f"{' '.join(key)} {n}" for key, n in answers.items()))
        note(f"answers: `scanfleet results ls --scan {scan_id}`; images: `scanfleet scans report {scan_id} -o FILE`")


def _echo_speed(summary: Summary, seconds: float | None) -> None:
    if seconds is None:
        return
    ended = summary.progress.n_verdicts + summary.progress.n_failures
    words = [f"{seconds:.1f} s including start-up ({ended / seconds:.1f} images/s)"]
    pace = summary.times.images_per_second
    if pace is not None and summary.times["under_way"] >= SHORTEST_SPAN:
        words.append(f"{pace:.1f} images/s per worker while it had batches")
    say(", ".join(words))


def echo_explanations(summary: Summary) -> None:
    """Who gave the answers, and how decisions and scores come about."""
    for entry in summary.explanations:
        click.echo()
        say(f"scored by {entry.who}: {count(entry.n_images, 'image')}")
        say(f"  {entry.decision}", hang=4)
        say(f"  {entry.score}", hang=4)
        if entry.looks is not None:
            say(f"  {entry.looks}", hang=4)
        if entry.shift is not None:
            say(f"  {entry.shift}", hang=4)


def say_if_nobody_works(engine: sa.Engine, scan: ScanInfo, done: Progress) -> None:
    from producer.scans.session import who_is_missing

    if scan.state == "running" and done.n_pending:
        missing = who_is_missing(engine, model=scan.model, queue=scan.queue)
        if missing is not None:
            note(missing)


def say_who_refuses(engine: sa.Engine, scan: ScanInfo) -> None:
    """That the champion was not what answered, or not everywhere."""
    from producer.training.refusals import in_a_line, refused_since
    from scanfleet.db.engine import reading

    with reading(engine) as connection:
        refusals = refused_since(connection, scan.check, scan.model, scan.created_at)
    if refusals:
        note(in_a_line(refusals))


def say_what_is_quarantined(scan_id: str, failures: Counts) -> None:
    """Images that kill what handles them: never tried again by themselves."""
    from producer.reports.failures import QUARANTINED, n_quarantined

    n = n_quarantined(failures)
    if not n:
        return
    there = [reason for reason in QUARANTINED if any(reason == key[1] for key in failures)]
    note(
        f"quarantined: {count(n, 'image')} that ended the process whenever tried alone ({', '.join(there)}); "
        f"never retried automatically: after an update, `scanfleet scans retry {scan_id} --reason {there[0]}`"
    )


def echo_agreement(found: Agreement, *, column: str) -> None:
    """Confusion matrix and rates with their 95 % intervals."""
    click.echo()
    say(f"against the truth in column {column} (rows: truth, columns: answer)")
    confusion = found.confusion()
    rows: list[tuple[str | int, ...]] = [
        (truth, *(confusion.get((truth, label), 0) for label in found.labels)) for truth in found.labels
    ]
    echo_table(("", *found.labels), [row for row in rows if any(row[1:])])
    click.echo()
    say(_rate("accuracy", found.accuracy()))
    if found.flags:
        say(_rate("precision of flags", found.precision("flag")))
        say(_rate("recall of flags", found.recall("flag")))
        say(_rate("recall of flags and reviews", found.recall("flag", "review")))
    if found.n_unanswered:
        say(
            f"not counted: {count(found.n_unanswered, 'image')} with a known truth but no verdict, "
            f"of which {found.n_unanswered_flags} should have been flagged"
        )
    if found.n_unknown:
        say(f"not counted: {count(found.n_unknown, 'image')} with no label of the check in column {column}")


def _rate(name: str, share: Proportion) -> str:
    if share.value is None:
        return f"{name}: undefined (0 images)"
    low, high = share.interval
    return f"{name}: {share.value:.4f} ({share.k} of {share.n}; 95 % interval {low:.4f} to {high:.4f})"
