"""`scanfleet train`: start, list, show, watch and cancel trainings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, echo_line, if_stopped, note, printable
from scanfleet.producer.cli.tables import Cell, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.config.settings import Settings
    from scanfleet.db.training.trainings import TrainingInfo

DETAIL_CHARACTERS = 80  # of an outcome in the table; `show` prints all of it
STATES = {"leased": "training"}  # for people; JSON has the state of the ledger
LINE_SECONDS = 5.0  # between two lines on the same stage
FORMAT = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group(cls=ScanfleetGroup)
def train() -> None:
    """Start, list, show, watch and cancel trainings of adapters.

    Training workers also start them on their own: after enough new labels, on a schedule, or on a drift alarm.

    \b
    Example:
      scanfleet train start --check overlay --wait
    """


@train.command()
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name or .toml file.")
@click.option("--model", metavar="MODEL", help="Base model: a built-in name, hub id or folder. Default: the setting.")
@click.option("--recipe", metavar="NAME", help="How to train: lora, full-lora, head ... Default: by model.")
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe.")
@click.option("--over", type=int, metavar="ADAPTER", help="With recipe head: train it on top of this adapter.")
@click.option("--from", "further", metavar="champion|ADAPTER", help="Train this adapter further, instead of a new one.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same labels and seed give the same adapter.")
@click.option("--why", metavar="TEXT", help="The reason, for the record.")
@click.option("--wait", is_flag=True, help="Wait until it has ended; exit 24 if it failed.")
@click.option("--strict", is_flag=True, help="With --wait: exit 23 unless the gate promoted the adapter.")
@click.pass_obj
def start(
    flags: Flags,
    /,
    *,
    model: str | None,
    fields: tuple[str, ...],
    over: int | None,
    further: str | None,
    wait: bool,
    strict: bool,
    **asked: Any,
) -> None:
    """Start a training on all labels of a check. Prints its id.

    A training worker trains and calibrates an adapter, compares it with the one in use, and puts it in use if it passes
    the gate. An adapter that does not pass is an outcome, not an error, unless --strict is set. An invalid recipe or
    field is refused at once.

    \b
    Example:
      scanfleet train start --check overlay --wait
      scanfleet train start --check overlay --recipe lora --set lr=1e-4 --seed 3
    """
    from scanfleet.db.schema import ledger
    from scanfleet.producer.training import trainings
    from scanfleet.queue.app import make_app

    settings = flags.settings(model=model)
    overrides = trainings.parse_overrides(fields, over=over, further=further)
    with ledger(settings) as engine, make_app(settings) as app:
        training_id = trainings.start(engine, app, settings, overrides=overrides, **asked)
        click.echo(training_id)
        missing = trainings.missing_trainer_hint(engine)
        if missing is not None:
            note(missing)
        if wait:
            with if_stopped(f"stopped waiting; the training continues: `scanfleet train watch {training_id}`"):
                _follow(engine, settings, training_id, strict=strict)


@train.command("ls")
@click.option("--check", "check_name", metavar="NAME", help="Only those of this check.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show only the newest.")
@FORMAT
@click.pass_obj
def list_trainings(flags: Flags, /, *, check_name: str | None, limit: int, form: str) -> None:
    """List trainings, the newest first.

    \b
    Example:
      scanfleet train ls --check overlay
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.training.trainings import list_trainings as listed
    from scanfleet.producer.training.trainings import progress_text, record

    with flags.ledger() as engine, reading(engine) as connection:
        found = listed(connection, check_name=check_name, limit=limit)
    if form == "json":
        brief = [{name: value for name, value in record(each).items() if name != "report"} for each in found]
        click.echo(json.dumps(brief, indent=2))
        return
    rows: list[tuple[Cell, ...]] = []
    for each in found:
        detail = _shortened(each.verdict or each.error or progress_text(each))
        since = f"{each.created_at:%Y-%m-%d %H:%M}"
        state = STATES.get(each.state, each.state)
        rows.append((each.id, each.check_name, each.base_model, since, state, detail, each.adapter_id, each.reason))
    header = ("id", "check", "model", "requested", "state", "detail", "adapter", "reason")
    echo_table(header, rows, below=("detail", "reason"))
    if not found:
        note("no training yet: start one with `scanfleet train start --check NAME`")


@train.command()
@click.argument("training_id", metavar="ID", type=int)
@FORMAT
@click.pass_obj
def show(flags: Flags, /, *, training_id: int, form: str) -> None:
    """Show a training: its state and figures.

    \b
    Example:
      scanfleet train show 3 --format json
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.training.trainings import get
    from scanfleet.producer.training.trainings import record, report_page

    with flags.ledger() as engine, reading(engine) as connection:
        found = get(connection, training_id)
    if form == "json":
        click.echo(json.dumps(record(found), indent=2))
        return
    _show(found, page=report_page(flags.settings(), found))


@train.command()
@click.argument("training_id", metavar="ID", type=int)
@click.option("--strict", is_flag=True, help="Exit 23 unless the gate promoted the adapter.")
@click.pass_obj
def watch(flags: Flags, /, *, training_id: int, strict: bool) -> None:
    """Follow a training until it ends; exit 24 if it failed.

    \b
    Example:
      scanfleet train watch 3
    """
    with flags.ledger() as engine:
        _follow(engine, flags.settings(), training_id, strict=strict)


@train.command()
@click.argument("training_id", metavar="ID", type=int)
@click.pass_obj
def cancel(flags: Flags, /, *, training_id: int) -> None:
    """Cancel a training. The adapter in use stays in use.

    \b
    Example:
      scanfleet train cancel 3
    """
    from scanfleet.db.engine import transaction
    from scanfleet.db.training.trainings import cancel as end

    with flags.ledger() as engine, transaction(engine) as connection:
        ended = end(connection, training_id)
    note(f"training {training_id} {'is cancelled' if ended else 'had already ended'}")


def _shortened(words: str) -> str:
    return words if len(words) <= DETAIL_CHARACTERS else f"{words[: DETAIL_CHARACTERS - 1]}…"


def _follow(engine: sa.Engine, settings: Settings, training_id: int, *, strict: bool) -> None:
    """Print progress and outcome. Raises TrainingFailed, and GateNotPassed if `strict` is set."""
    from scanfleet.producer.training.trainings import outcome, progress_text, report_page, require_promoted, watch

    shown, stage, at = "", None, 0.0
    for now in watch(engine, training_id):
        words = progress_text(now)
        new_stage = (now.state, now.stage) != stage
        if not now.ended and words != shown and (new_stage or time.monotonic() - at >= LINE_SECONDS):
            note(f"training {training_id}: {words}")
            shown, stage, at = words, (now.state, now.stage), time.monotonic()
        if now.ended:
            words = outcome(now)
            if strict:
                require_promoted(now)
            note(words)
            page = report_page(settings, now)
            if page is not None:
                note(f"report with every figure and plot: {page}")


def _losses(fit: Mapping[str, Any]) -> str | None:
    """Return `1.07 by recipe lora, 1.10 by guessing, from 240 training images`; None if nothing was trained."""
    tried = fit.get("tried") or {}
    if not tried or not fit.get("chance"):
        return None
    losses = ", ".join(
        f"{'diverged' if loss is None else f'{loss:.2f}'} by recipe {name}" for name, loss in tried.items()
    )
    return f"{losses}, {fit['chance']:.2f} by guessing, from {fit['learnt_from']} training images"


def _moved(canary: Mapping[str, Any]) -> str | None:
    if canary.get("mean_effect") is None or canary.get("least_effect") is None:
        return None
    return f"the base's margins by {canary['mean_effect']:.3f} logits on average, {canary['least_effect']:g} are needed"


def _again(found: TrainingInfo) -> str:
    return (
        "by itself after a fifth more labels (20 at least), which help most; at once, also with another recipe or "
        f"model: `scanfleet train start --check {found.check_name}`"
    )


def _show(found: TrainingInfo, *, page: str | None) -> None:
    from scanfleet.producer.training.trainings import progress_text

    report = found.report or {}
    labels = report.get("labels") or {}
    lines = {
        "training": found.id,
        "check": found.check_name,
        "model": found.base_model,
        "recipe": " ".join([found.recipe, *(f"{name}={value}" for name, value in found.overrides.items())]),
        "seed": found.seed,
        "reason": found.reason,
        "state": found.state if found.ended else f"{STATES.get(found.state, found.state)}: {progress_text(found)}",
        "error": found.error,
        "adapter": found.adapter_id,
        "page": page,
        "labels": ", ".join(f"{sum(each.values())} {split}" for split, each in labels.items()) or None,
        "generated": f"{report['generated']} of the images in train" if report.get("generated") else None,
        "loss": _losses(report.get("fit") or {}) if found.state == "failed" else None,
        "moved": _moved(report.get("canary") or {}) if found.state == "failed" else None,
        "again": _again(found) if found.state == "failed" else None,
        "left out": ", ".join(f"{n} {reason}" for reason, n in (report.get("left_out") or {}).items()) or None,
        "seconds": ", ".join(f"{stage} {spent:.1f}" for stage, spent in (report.get("seconds") or {}).items()) or None,
    }
    for name, value in lines.items():
        if value is not None:
            echo_line(f"{name:<9} {printable(str(value))}", hang=10)
    for line in report.get("lines") or ():
        echo_line(printable(line))
