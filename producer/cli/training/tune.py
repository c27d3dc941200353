"""`scanfleet tune`: search wording, pixel budgets, gate and crop pass of a check on labelled images.

Progress goes to stderr, the front as a table or as JSON to stdout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, echo_line, note, printable
from scanfleet.producer.cli.progress import LINE_SECONDS
from scanfleet.producer.cli.tables import count, echo_table
from scanfleet.producer.cli.training.labels_import import user

if TYPE_CHECKING:
    from scanfleet.checks.check import Check
    from scanfleet.config.settings import Settings
    from scanfleet.producer.local.child import Child
    from scanfleet.producer.training.tuning import Answering, LabelFile


class Progress:
    """One line that is rewritten on a terminal; elsewhere a new line every few seconds."""

    def __init__(self) -> None:
        self._rewrites = sys.stderr.isatty()
        self._shown_at = 0.0
        self._width = 0

    def show(self, what: str, done: int, total: int, seconds_left: float | None = None) -> None:
        words = f"{what}: {done} of {total}" if total else what
        words += "" if seconds_left is None else f", {_duration(seconds_left)} left"
        if self._rewrites:
            click.echo(f"\r{words.ljust(self._width)}", err=True, nl=False)
            self._width = len(words)
        elif time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            note(words)

    def end(self) -> None:
        if self._rewrites and self._width:
            click.echo(err=True)


def _duration(seconds: float) -> str:
    """
    >>> _duration(42.4), _duration(130)
    ('42 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def show_report(record: dict[str, Any], *, as_json: bool) -> None:
    for words in record["notes"]:
        note(words)
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    images = record["images"]
    tried = count(record["trials"], "setting")
    note(f"{tried} tried on {images['search']['n']} images, judged on {images['held_out']['n']} others")
    rows = [("current", record["standing"]), ("larger budget", record["larger"])]
    rows += [("chosen" if at == record["chosen"] else "candidate", row) for at, row in enumerate(record["front"])]
    header = ("", "cost", record["objective"]["name"], "change", "crops", "setting")
    echo_table(header, [_row(kind, row) for kind, row in rows], below=("setting",))
    echo_line(printable(record["reason"]))


def _row(kind: str, row: dict[str, Any]) -> tuple[str, ...]:
    cost, again = f"{row['cost']:.2f}", f"{row['again']:.0%}"
    return (kind, cost, interval(row["value"], "{:.3f}"), interval(row["change"], "{:+.3f}"), again, row["words"])


def interval(found: dict[str, float | None], form: str) -> str:
    if found["value"] is None:
        return "-"
    value = form.format(found["value"])
    if found["low"] is None or found["high"] is None:
        return value
    return f"{value} [{form.format(found['low'])}, {form.format(found['high'])}]"


LEDGER = "ledger"
FORMATS = ("auto", "csv", "jsonl", "coco", "yolo", "voc", "cvat", "labelstudio", "groundtruth")


@click.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name or .toml file.")
@click.option("--labels", required=True, metavar="FILE|ledger", help='Labelled images: a file or folder, or "ledger".')
@click.option("--model", metavar="MODEL", help="Built-in name, hub id or folder. Default: the setting.")
@click.option(
    "--adapter", type=click.Path(path_type=Path), metavar="FOLDER", help="Tune with this adapter. Default: as in scans."
)
@click.option(
    "--max-cost",
    type=click.FloatRange(1.0, 100.0),
    default=1.6,
    show_default=True,
    help="Highest mean of visual tokens per image, as a ratio to the current check.",
)
@click.option("--trials", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Settings to try.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the halves and of the settings.")
@click.option(
    "--at-fpr",
    type=click.FloatRange(0.0, 0.5, min_open=True),
    default=0.05,
    show_default=True,
    help="False-positive rate at which recall counts. Without flags, accuracy counts.",
)
@click.option("--apply/--dry-run", "apply_it", default=False, help="Store the choice as a version of the check.")
@click.option("--as", "new_name", metavar="NAME", help="Store it under this name. Default: the check's own.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="New folder for the report and the check file."
)
@click.option("--skip-unreadable", is_flag=True, help="Skip images that cannot be read instead of refusing.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True)
@click.option("--map", "pairs", multiple=True, metavar="THEIRS=OURS", help="Rename a label of the file to the check's.")
@click.option("--empty", metavar="LABEL", help="Label for images in which nothing was found.")
@click.option("--root", metavar="DIR|s3://...", help="Base of relative names. Default: the folder of the file.")
@click.option("--label-column", default="label", show_default=True, metavar="COL", help="Column with the label.")
@click.option("--group-column", metavar="COL", help="Column that tells which images belong together. Default: group.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON instead of a table.")
@click.pass_obj
def tune(
    flags: Flags,
    /,
    *,
    check_name: str,
    labels: str,
    model: str | None,
    adapter: Path | None,
    apply_it: bool,
    new_name: str | None,
    out: Path | None,
    as_json: bool,
    skip_unreadable: bool,
    max_cost: float,
    trials: int,
    seed: int,
    at_fpr: float,
    **of_file: Any,
) -> None:
    """Search for better settings of a check on labelled images.

    Searches wording, pixel budgets, gate, crop pass and fusion, within a cost limit. Half of the images, in whole
    groups, choose the settings; the other half judges the best of them, beside the current check and a larger pixel
    budget at equal cost. A setting is chosen only if it is measurably better. --apply stores it as a new version of the
    check, with its own calibrator and thresholds. Ctrl-C ends the search; the best so far is judged and reported.

    \b
    Example:
      scanfleet tune --check razor --labels truth.csv --out tuned
      scanfleet tune --check razor --labels ledger --max-cost 1.3 --apply
    """
    from scanfleet.producer.local.child import Child
    from scanfleet.producer.local.workers import require_worker_extra
    from scanfleet.producer.training.tuning import require_new

    if out is not None:
        require_new(out)
    settings, check, asked, answer = _request(flags, check_name, model, adapter, new_name)
    require_worker_extra()
    file = None if labels == LEDGER else _label_file(Path(labels), **of_file)
    rows = _images(settings, check, file, answer, skip_unreadable=skip_unreadable)
    asked |= {"max_cost": max_cost, "trials": trials, "seed": seed, "at_fpr": at_fpr}
    asked |= {"skip_unreadable": skip_unreadable, "out": None if out is None else os.path.abspath(out)}
    with Child(settings, "scanfleet.worker.tuning.serve") as child:
        child.feed([asked, *rows])
        record, stopped = _follow(child)
    show_report(record, as_json=as_json)
    if out is not None:
        files = "report and picture" if record["tuned"] is None else "report, picture and check file"
        note(f"{files} are in {out}")
    if stopped:
        raise KeyboardInterrupt
    if apply_it:
        _apply(flags, record)


def _request(
    flags: Flags, check_name: str, model: str | None, adapter: Path | None, new_name: str | None
) -> tuple[Settings, Check, dict[str, Any], Answering]:
    """Check the request before any image is read. Raises BadSettings, BadCheck."""
    from scanfleet.config.model_names import require_model
    from scanfleet.producer.scans.session import existing_ledger, find_check
    from scanfleet.producer.training.tuning import answering, require_tunable, under_name

    settings = flags.settings(model=model)
    require_model(settings.model, elsewhere=False)
    with existing_ledger(settings) as engine:
        check = find_check(engine, check_name)
        require_tunable(check, settings)
        answer = answering(engine, check, settings, None if adapter is None else os.path.abspath(adapter))
    name = under_name(check, new_name or check.name).name
    asked = {"check": check.model_dump(mode="json"), "name": name}
    return settings, check, asked | {"adapter": answer.folder, "registered": answer.registered}, answer


def _label_file(path: Path, **more: Any) -> LabelFile:
    from scanfleet.producer.training.tuning import LabelFile

    return LabelFile(path=path, **more)


def _images(
    settings: Settings, check: Check, file: LabelFile | None, answer: Answering, *, skip_unreadable: bool
) -> list[dict[str, Any]]:
    """Raises BadLabels."""
    from scanfleet.producer.scans.session import existing_ledger
    from scanfleet.producer.training.tuning import from_file, from_ledger

    if file is None:
        with existing_ledger(settings) as engine:
            return from_ledger(engine, check, taught=answer.taught)
    progress = Progress()
    on_progress = partial(progress.show, "reading images")
    rows, unread = from_file(file, check, settings, skip_unreadable=skip_unreadable, on_progress=on_progress)
    progress.end()
    for uri, error in unread.items():
        note(f"{uri}: {error}")
    return rows


def _follow(child: Child) -> tuple[dict[str, Any], bool]:
    """Return the report, and True if Ctrl-C stopped the search."""
    progress, interrupt = Progress(), _Interrupt(child)
    record: dict[str, Any] = {}
    with interrupt:
        for message in child.messages():
            interrupt.listens = True
            if message["kind"] == "progress":
                progress.show(message["what"], message["done"], message["total"], message["seconds_left"])
            else:
                record = message["record"]
    progress.end()
    return record, interrupt.came


class _Interrupt:
    """A context in which the first Ctrl-C ends the search of the child, and the second one everything.

    listens: set after the first message of the child; before that, the signal would kill it. came: Ctrl-C was pressed.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self.listens = self.came = False

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._take)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _take(self, _: int, __: FrameType | None) -> None:
        if self.came or not self.listens:
            raise KeyboardInterrupt
        self.came = True
        os.kill(self._child.pid, signal.SIGINT)
        note("the search ends; the best so far is judged now (Ctrl-C again: no report)")


def _apply(flags: Flags, record: dict[str, Any]) -> None:
    from scanfleet.producer.training.tuning import apply

    tuned = record["tuned"]
    if tuned is None:
        note("nothing was stored: the check stays as it is")
        return
    with flags.ledger() as engine:
        version = apply(engine, tuned, who=user())
    note(f"check {tuned['check']['name']} is now version {version[:12]}, with its own thresholds")
