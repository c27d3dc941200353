"""Requests and follows trainings, and describes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.endpoints import PREFIX
from scanfleet.config.settings import Settings
from scanfleet.config.user import user_name
from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.labels import newest_label
from scanfleet.db.scans.checks import resolve_check, save_check
from scanfleet.db.scans.workers import live_workers
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import get_adapter
from scanfleet.db.training.champions import champion
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import BrokerUnavailable, GateNotPassed, RequestError, TrainingFailed
from scanfleet.messages import TRAIN_QUEUE
from scanfleet.queue.app import notify_training
from scanfleet.retry import retry_database

log = structlog.get_logger()

POLL_SECONDS = 0.25  # between two reads of the ledger
SILENT_SECONDS = 30.0  # a worker without a heartbeat for this long does not count as live
RECIPE_SECONDS = 30.0  # limit for a check of the recipe, which takes a fraction of a second
OVER = "over"  # not a field of the recipe: the adapter that a head is trained on top of
FROM = "from"  # nor is this: the adapter that is trained further
CHAMPION = "champion"


def start(
    engine: sa.Engine,
    app: Celery,
    settings: Settings,
    *,
    check_name: str,
    recipe: str | None,
    overrides: dict[str, Any],
    seed: int,
    why: str | None,
) -> int:
    """Request a training on all labels and notify the workers. Returns its id.

    Raises UnknownName, BadCheck, AlreadyUnderWay, TrainingFailed without labels, and RequestError for an invalid
    recipe, field or adapter to train on top of.
    """
    if settings.model.startswith(PREFIX):
        raise RequestError(f"{settings.model} is an endpoint, which cannot be trained: name a model with --model")
    recipe = recipe or settings.train_recipe
    order = require_recipe(recipe, settings.model, overrides)
    with transaction(engine) as connection:
        check = resolve_check(connection, check_name)
        if check.steps:
            raise RequestError(f"check {check.name} has steps and cannot be trained: use a check with one prompt")
        if order and FROM not in overrides and (check.order or order) != order:
            raise RequestError(
                f'recipe {recipe} trains {order}, and check {check.name} has order = "{check.order}": remove it, or '
                "choose another recipe"
            )
        overrides = _resolved(connection, check.name, settings.model, overrides)
        newest = newest_label(connection, check.name)
        if not newest:
            raise TrainingFailed(f"check {check.name} has no labels yet: `scanfleet labels import` or `labels add`")
        who = user_name()
        training_id = trainings.request(
            connection,
            check_id=save_check(connection, check),
            check_name=check.name,
            base_model=settings.model,
            recipe=recipe,
            overrides=overrides,
            seed=seed,
            reason=why or f"asked for by {who or 'a person'}",
            who=who,
            newest_label=newest,
        )
    try:
        notify_training(app, training_id)
    except BrokerUnavailable as error:
        log.warning("broker_away", error=str(error))  # the training is stored, and workers are notified again later
    return training_id


def require_recipe(recipe: str, base_model: str, overrides: dict[str, Any]) -> str | None:
    """Refuse now what a training worker would refuse later. Raises RequestError.

    Recipes belong to the worker half, so a subprocess of it checks them. Where that half is not installed, the check
    is left to its workers.

    Returns the only order of a check that the recipe can train for; None: any.
    """
    fields = {name: value for name, value in overrides.items() if name not in (OVER, FROM)}
    asked = json.dumps({"recipe": recipe, "base_model": base_model, "overrides": fields})
    command = (sys.executable, "-P", "-m", "scanfleet.models.recipes")
    try:
        done = subprocess.run(  # noqa: S603
            command, input=asked, capture_output=True, text=True, timeout=RECIPE_SECONDS, check=True
        )
        answer = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        log.warning("recipe_not_checked", error=str(error))
        return None
    if "fault" in answer:
        raise RequestError(answer["fault"])
    if OVER in overrides and answer["trains"] != ["head"]:
        raise RequestError(f"recipe {recipe} trains no head, which --over needs: add --recipe head")
    if FROM in overrides and answer["trains"] == ["head"]:
        raise RequestError(f"recipe {recipe} trains a head alone: name the adapter under it with --over")
    order: str | None = answer.get("order")
    return order


def _resolved(connection: sa.Connection, check_name: str, base_model: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides with ids of adapters that fit. Raises UnknownName, RequestError."""
    if overrides.get(FROM) == CHAMPION:
        in_use = champion(connection, check_name, base_model)
        if in_use is None:
            raise RequestError(f"no adapter of check {check_name} is in use on {base_model}: leave out --from")
        overrides = overrides | {FROM: in_use.id}
    for name in (OVER, FROM):
        if name in overrides:
            _require_fitting(connection, check_name, base_model, name, overrides[name])
    return overrides


def _require_fitting(connection: sa.Connection, check_name: str, base_model: str, name: str, adapter_id: Any) -> None:
    if type(adapter_id) is not int:
        raise RequestError(f"{name}={adapter_id}: give the id of an adapter (`scanfleet adapters ls`)")
    adapter = get_adapter(connection, adapter_id)
    if (adapter.check_name, adapter.base_model) != (check_name, base_model):
        raise RequestError(
            f"adapter {adapter_id} is for check {adapter.check_name} on {adapter.base_model}, not for {check_name} on "
            f"{base_model}: choose another (`scanfleet adapters ls --check {check_name}`)"
        )


def parse_overrides(settings: Sequence[str], *, over: int | None = None, further: str | None = None) -> dict[str, Any]:
    """Parse fields such as `lr=1e-4`; values are JSON, or else text. Raises RequestError.

    >>> parse_overrides(["lr=1e-4", "mixing=none"], over=None)
    {'lr': 0.0001, 'mixing': 'none'}
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name.strip() and equals):
            raise RequestError(f"--set {setting}: write FIELD=VALUE, as in lr=1e-4")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    if further is not None:
        found[FROM] = int(further) if further.isdecimal() else further
    return found if over is None else found | {OVER: over}


def missing_trainer_hint(engine: sa.Engine) -> str | None:
    """Return what to do if no training worker is live; None if one is."""
    with reading(engine) as connection:
        found = live_workers(connection, silent_seconds=SILENT_SECONDS)
    if any(each.queue == TRAIN_QUEUE for each in found):
        return None
    return "no live training worker. Start one: `scanfleet worker train`"


def watch(engine: sa.Engine, training_id: int) -> Iterator[TrainingInfo]:
    """Yield the training until it has ended. Only reads. Raises UnknownName."""

    def read() -> TrainingInfo:
        with reading(engine) as connection:
            return trainings.get(connection, training_id)

    pause = Event()
    while True:
        now = retry_database(read)
        yield now
        if now.ended:
            return
        pause.wait(POLL_SECONDS)


def progress_text(training: TrainingInfo) -> str:
    """Return `fit, step 40 of 150, epoch 3 of 10, loss 0.5213, about 31 s left`, or the reason for a wait."""
    if training.state == "ready":
        waits = f" for: {training.waiting_for}" if training.waiting_for else " for a training worker"
        return f"waiting{waits}"
    if training.ended or training.stage is None:
        return training.state if training.ended else "starting"
    words, at = [training.stage], training.progress or {}
    if at.get("steps"):
        words.append(f"step {at.get('step', 0)} of {at['steps']}")
    if at.get("epochs"):
        words.append(f"epoch {at['epoch']} of {at['epochs']}")
    words += [f"{name} {at[name]:.4f}" for name in ("loss", "validation") if at.get(name) is not None]
    if at.get("seconds_left") is not None:
        words.append(f"about {at['seconds_left']:.0f} s left")
    return ", ".join(words)


def report_page(settings: Settings, training: TrainingInfo) -> str | None:
    """Return the place of the report page; None if the training has no figures."""
    if not (training.report or {}).get("lines"):
        return None
    folder = settings.data_dir / "trainings" / str(training.id)
    here = folder.is_dir()  # the page is written a moment after the training has ended
    return f"{folder}/report.html" if here else f"trainings/{training.id}/report.html in the data folder of its worker"


def outcome(training: TrainingInfo) -> str:
    """Return one line on how it ended. Raises TrainingFailed unless it made an adapter."""
    if training.state != "done":
        how = "was cancelled" if training.state == "cancelled" else f"failed: {training.error}"
        raise TrainingFailed(f"training {training.id} {how}")
    reason = ((training.report or {}).get("gate") or {}).get("reason", "")
    became = f"adapter {training.adapter_id}"
    became += " is in use now" if training.verdict == "promote" else " is registered, not in use"
    return f"training {training.id}: {training.verdict}: {became}: {reason}"


def require_promoted(training: TrainingInfo) -> None:
    """Raises GateNotPassed."""
    if training.verdict != "promote":
        raise GateNotPassed(outcome(training))


def record(training: TrainingInfo) -> dict[str, Any]:
    """Return every figure as plain JSON."""
    names = [name for name in TrainingInfo.__dataclass_fields__ if name not in ("check_id", "lease_token", "attempts")]
    found = {name: getattr(training, name) for name in names}
    times = ("created_at", "started_at", "finished_at", "not_before")
    return found | {name: None if found[name] is None else found[name].isoformat() for name in times}
