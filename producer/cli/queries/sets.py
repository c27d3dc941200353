"""`scanfleet results sets`: the answers of a check of kind multi, a set of classes for each image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, echo_line, note
from scanfleet.producer.cli.queries.rows import echo_rows, form_option
from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.checks.check import Check
    from scanfleet.db.queries.sets import SetAnswer
    from scanfleet.stats.sets import SetFigures

COLUMNS = ("uri", "labels", "review", "margins", "scores")
SPLITS = ("golden", "calibration", "threshold", "train")


@click.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check of kind multi: its name or file.")
@click.option("--scan", "scan_id", metavar="SCAN", help="Any scan of the pass. Default: the newest.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Most images to list. Default: 100 in a table.")
@click.option("--labels", "by_labels", is_flag=True, help="Measure by people's labels instead of listing.")
@click.option("--truth", metavar="COL", help="Measure by a column of the manifest, such as `knife,gun` or `none`.")
@click.option(
    "--split",
    "splits",
    type=click.Choice(SPLITS),
    multiple=True,
    default=("golden",),
    show_default=True,
    help="With --labels: which labelled images; may be repeated.",
)
@form_option()
@click.pass_obj
def sets(
    flags: Flags,
    /,
    *,
    check_name: str,
    scan_id: str | None,
    limit: int | None,
    by_labels: bool,
    truth: str | None,
    splits: tuple[str, ...],
    form: str,
) -> None:
    """List the classes that each image shows, by a check of kind multi.

    labels: flagged classes. review: classes that a person decides about. margins and scores are by class; a class
    without an answer has none.

    With --labels or --truth, figures instead: images whose whole set is right, F1 over all answers (micro) and over
    classes (macro), and mean average precision of the margins. A class under review counts by its likelier answer.

    \b
    Example:
      scanfleet results sets --check xray --format jsonl > sets.jsonl
      scanfleet results sets --check xray --labels
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.sets import iter_sets, set_scans
    from scanfleet.producer.scans.session import find_several

    if by_labels and truth:
        raise click.UsageError("choose one of --labels and --truth")
    with flags.ledger(only_reads=True) as engine:
        checks = find_several(engine, check_name)
        _require_multi(checks, check_name)
        with reading(engine) as connection:
            scans = set_scans(connection, checks, scan_id=scan_id)
        found = iter_sets(engine, scans)
        if by_labels or truth:
            figures = _measure(_with_truth(engine, checks, found, truth, splits), [*scans])
            _echo_figures(figures, form)
            return
        most = limit or (100 if form == "table" else None)
        rows = (_row(one) for one in islice(found, most))
        if form == "jsonl":  # a line at a time: an archive is long
            _echo_lines(rows)
            return
        listed = list(rows)
    echo_rows(COLUMNS, listed if form != "table" else [_readable(row) for row in listed], form=form)
    if form == "table" and len(listed) == most:
        note(f"only the first {most} are shown: --limit shows more")


def _require_multi(checks: Sequence[Check], name: str) -> None:
    from scanfleet.checks.multi import set_name
    from scanfleet.errors import BadCheck

    if set_name(checks) is None:
        raise BadCheck(f"{name} is not of kind multi: `scanfleet results ls` lists its answers")


def _row(one: SetAnswer) -> tuple[Any, ...]:
    return one.uri, one.decided("flag"), one.decided("review"), dict(one.margins), dict(one.scores)


def _echo_lines(rows: Iterable[tuple[Any, ...]]) -> None:
    from scanfleet.producer.reports.output import target

    with target(None, form="jsonl") as file:
        for row in rows:
            file.write(f"{json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False)}\n".encode())


def _readable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    uri, flagged, review, *figures = row
    texts = (
        ", ".join(f"{label} {value:.2f}" for label, value in each.items() if value is not None) for each in figures
    )
    return uri, ", ".join(flagged) or "-", ", ".join(review) or "-", *(text or "-" for text in texts)


def _with_truth(
    engine: sa.Engine, checks: Sequence[Check], found: Iterable[SetAnswer], truth: str | None, splits: Sequence[str]
) -> Iterator[tuple[set[str], SetAnswer]]:
    """Yield the answered images with the classes that they show."""
    from scanfleet.checks.multi import split_classes
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.sets import PAGE_IMAGES, labelled_sets

    stream = (one for one in found if len(one.decisions) == len(checks))
    while page := list(islice(stream, PAGE_IMAGES)):
        if truth is not None:
            yield from ((set(split_classes(str(value))), one) for one in page if (value := (one.meta or {}).get(truth)))
            continue
        shas = [one.content_sha256 for one in page if one.content_sha256 is not None]
        with reading(engine) as connection:
            said = labelled_sets(connection, checks, shas, splits=splits)
        yield from ((said[one.content_sha256], one) for one in page if one.content_sha256 in said)


def _measure(pairs: Iterable[tuple[set[str], SetAnswer]], labels: Sequence[str]) -> SetFigures:
    from scanfleet.errors import BadLabels
    from scanfleet.stats.sets import SetAgreement

    agreement = SetAgreement(labels)
    for truth, one in pairs:
        if strange := truth - set(labels):
            raise BadLabels(f"{one.uri}: {sorted(strange)[0]!r} is not a class of the check ({', '.join(labels)})")
        agreement.add(truth, one.shown, one.margins)
    figures = agreement.figures()
    if not figures.exact.n:
        raise BadLabels(
            "no answered image has a truth for every class: label some, or choose another --split or --truth"
        )
    return figures


def _echo_figures(figures: SetFigures, form: str) -> None:
    exact = figures.exact
    low, high = exact.interval
    if form != "table":
        classes = {one.label: {"shown": one.true + one.missed, "f1": one.f1, "ap": one.ap} for one in figures.classes}
        means = {"micro_f1": figures.micro_f1, "macro_f1": figures.macro_f1, "mean_ap": figures.mean_ap}
        record = {"images": exact.n, "subset_accuracy": exact.value, "interval": [low, high], **means}
        click.echo(json.dumps(record | {"classes": classes}, ensure_ascii=False))
        return
    echo_line(f"{count(exact.n, 'image')}; whole set right: {exact.value:.3f} [{low:.3f}, {high:.3f}]")
    means_of = (_text(figures.micro_f1), _text(figures.macro_f1), _text(figures.mean_ap))
    echo_line("F1 over answers {}, over classes {}; mean AP {}".format(*means_of))
    rows = [
        (one.label, one.true + one.missed, one.true, one.wrong, one.missed, _text(one.f1), _text(one.ap))
        for one in figures.classes
    ]
    echo_rows(("class", "images", "right", "wrong", "missed", "F1", "AP"), rows, form="table")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
