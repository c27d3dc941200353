"""The process that computes one training: `python -m worker.training.child ID TOKEN PARENT`, started by the worker.

It says in JSON lines, on what was its stdout, where it stands (progress) and how it ended: done (the ledger has it
already), failed (a person must change something), waits (the world failed), stopped (asked to). An end without such a
word is a crash. It holds the lease's token, and whatever it writes to the ledger is checked against it.

The stages of a training in their order. `promote` comes after them: it writes no result but the ledger's.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from contextlib import closing
from typing import Any

import sqlalchemy as sa
import structlog

from models.errors import ModelInvalid, ModelUnavailable
from models.inputs.sources import locate
from scanfleet.child_process import end_with_parent
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading
from scanfleet.db.scans.checks import get_check
from scanfleet.db.schema import ledger
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import LeaseLost, Retryable, ScanfleetError, TrainingFailed
from scanfleet.log import configure_logging
from scanfleet.redaction import storable
from worker.runtime.child_protocol import Reports
from worker.scoring.factory import question_of
from worker.training.compare_stage import compare
from worker.training.context import Context, Stage, StopAskedError, Teller
from worker.training.fit import calibrate, canary, fit
from worker.training.publish import finish, publish
from worker.training.snapshot import images, snapshot
from worker.training.workspace import REPORT, WorkFolder, folder_of

STAGES: tuple[tuple[str, Stage], ...] = (
    ("snapshot", snapshot),
    ("images", images),
    ("fit", fit),
    ("calibrate", calibrate),
    ("canary", canary),
    ("publish", publish),
    ("compare", compare),
)

log = structlog.get_logger()

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # of the world: somebody may mend them
MAX_WORDS = 2000
Stages = tuple[tuple[str, Stage], ...]


def main(arguments: list[str], *, stages: Stages = STAGES) -> int:
    """The exit code: 0 when it said how it ended."""
    training_id, token, parent = map(int, arguments)
    end_with_parent(parent)  # elsewhere than on Linux the lease's token keeps it from writing
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    reports = Reports.on_stdout()
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, json=settings.log_json)
        with ledger(settings) as engine:
            held = _held(engine, training_id, token)
            reports.send("done", words=_run(settings, engine, held, reports, stop, stages))
    except Exception as error:
        kind, words = _last_words(error)
        if kind == "crashed":
            log.exception("training_crashed")
        reports.send(kind, words=storable(words)[:MAX_WORDS])
        return 1 if kind == "crashed" else 0
    return 0


def _last_words(error: Exception) -> tuple[str, str]:
    """What kind of an end an error is, and why."""
    match error:
        case StopAskedError():
            return "stopped", ""
        case LeaseLost():
            return "lost", str(error)
        case Retryable() | ModelUnavailable():
            return "waits", str(error)
        case ScanfleetError() | ModelInvalid():
            return "failed", str(error)
        case OSError() if error.errno in DISK_FAULTS:
            return "waits", f"{error.filename or 'the disk'}: {error.strerror}"
    return "crashed", f"{type(error).__name__}: {error}"


def _held(engine: sa.Engine, training_id: int, token: int) -> TrainingInfo:
    with reading(engine) as connection:
        held = trainings.get(connection, training_id)
    if held.state != "leased" or held.lease_token != token:
        raise LeaseLost(f"training {training_id}: lease {token} is no longer the current one")
    return held


def _run(
    settings: Settings, engine: sa.Engine, held: TrainingInfo, reports: Reports, stop: threading.Event, stages: Stages
) -> str:
    """Returns the gate's verdict."""
    with reading(engine) as connection:
        check = get_check(connection, held.check_id)
    if check.steps:
        raise TrainingFailed(
            f"check {check.name} asks in steps, which no adapter learns: train a check with one prompt"
        )
    with closing(WorkFolder(folder_of(settings, held.id), identity_of(held, settings))) as work:
        context = Context(
            settings=settings,
            engine=engine,
            held=held,
            check=check,
            question=question_of(check),
            work=work,
            tell=Teller(reports.send, stop=stop.is_set),
        )
        verdict = finish(context, stages)
        _draw(work, held)
        work.clean()
        return verdict


def _draw(work: WorkFolder, held: TrainingInfo) -> None:
    """The report for people. The ledger has the outcome already: what goes wrong here changes nothing of it."""
    from worker.evaluation.plots import write_report

    try:
        write_report(work.path, work.read(REPORT), title=f"training {held.id}: {held.check_name} on {held.base_model}")
    except Exception:
        log.exception("report_failed", training=held.id)


def identity_of(held: TrainingInfo, settings: Settings) -> dict[str, Any]:
    """What the work folder is for. A base with other weights makes it another one. Raises TrainingFailed."""
    try:
        revision = locate(settings.model, revision=settings.model_revision).revision
    except ModelInvalid as error:
        raise TrainingFailed(f"model: {error}") from error
    names = ("id", "check_id", "base_model", "recipe", "overrides", "seed", "newest_label")
    created = {"created_at": held.created_at.isoformat(), "base_revision": revision, "precision": settings.precision}
    return {name: getattr(held, name) for name in names} | created


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
