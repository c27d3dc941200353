"""The process that computes one training: `python -m scanfleet.worker.training.child ID TOKEN PARENT`.

The worker starts it.

It reports in JSON lines, on its original stdout: first its progress, then its outcome. The outcome is done (already in
the ledger), failed (a person must change something), waits (a transient error), stopped (on request) or lost (another
worker has the lease). An exit without an outcome is a crash. Ledger writes are checked against the lease's token.
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

from scanfleet.child_process import end_with_parent
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading
from scanfleet.db.scans.checks import get_check
from scanfleet.db.schema import ledger
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import LeaseLost, Retryable, ScanfleetError, TrainingFailed
from scanfleet.log import configure_logging
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.inputs.sources import locate
from scanfleet.redaction import storable
from scanfleet.worker.runtime.child_protocol import Reports
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.training.compare_stage import compare
from scanfleet.worker.training.context import Context, Stage
from scanfleet.worker.training.fit import calibrate, canary, fit
from scanfleet.worker.training.progress import ProgressReporter, StopRequested
from scanfleet.worker.training.publish import finish, publish, report_of_failure
from scanfleet.worker.training.snapshot import images, snapshot
from scanfleet.worker.training.workspace import REPORT, WorkFolder, folder_of

# `promote` follows them: its only result is in the ledger.
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

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # transient: an operator can fix them
MAX_MESSAGE = 2000
Stages = tuple[tuple[str, Stage], ...]


def main(arguments: list[str], *, stages: Stages = STAGES) -> int:
    """Returns the exit code: 0 when it reported its outcome."""
    training_id, token, parent = map(int, arguments)
    end_with_parent(parent)  # elsewhere than on Linux the lease's token keeps it from writing
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    reports = Reports.on_stdout()
    results: dict[str, dict[str, Any]] = {}  # of the finished stages
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, json=settings.log_json)
        with ledger(settings, newer=True) as engine:
            training = _leased_training(engine, training_id, token)
            reports.send("done", words=_run(settings, engine, training, reports, stop, stages, results))
    except Exception as error:
        kind, detail = outcome_of(error)
        if kind == "crashed":
            log.exception("training_crashed")
        more = {"report": report_of_failure(results)} if kind == "failed" else {}
        reports.send(kind, words=storable(detail)[:MAX_MESSAGE], **more)
        return 1 if kind == "crashed" else 0
    return 0


def outcome_of(error: Exception) -> tuple[str, str]:
    """The outcome that an error means, and its detail."""
    match error:
        case StopRequested():
            return "stopped", ""
        case LeaseLost():
            return "lost", str(error)
        case Retryable() | ModelUnavailable():
            return "waits", str(error)
        case ScanfleetError() | ModelInvalid():
            return "failed", str(error)
        case OSError() if error.errno in DISK_ERRORS:
            return "waits", f"{error.filename or 'the disk'}: {error.strerror}"
    return "crashed", f"{type(error).__name__}: {error}"


def _leased_training(engine: sa.Engine, training_id: int, token: int) -> TrainingInfo:
    with reading(engine) as connection:
        training = trainings.get(connection, training_id)
    if training.state != "leased" or training.lease_token != token:
        raise LeaseLost(f"training {training_id}: lease {token} is no longer the current one")
    return training


def _run(
    settings: Settings,
    engine: sa.Engine,
    training: TrainingInfo,
    reports: Reports,
    stop: threading.Event,
    stages: Stages,
    results: dict[str, dict[str, Any]],
) -> str:
    """Returns the gate's verdict. results: filled in as stages finish."""
    with reading(engine) as connection:
        check = get_check(connection, training.check_id)
    if check.steps:
        raise TrainingFailed(
            f"check {check.name} asks in steps, which an adapter cannot learn: train a check with one prompt"
        )
    with closing(WorkFolder(folder_of(settings, training.id), identity_of(training, settings))) as work:
        context = Context(
            settings=settings,
            engine=engine,
            training=training,
            check=check,
            question=question_of(check),
            work=work,
            progress=ProgressReporter(reports.send, stop=stop.is_set),
            results=results,
        )
        verdict = finish(context, stages)
        _write_report(work, training)
        work.clean()
        return verdict


def _write_report(work: WorkFolder, training: TrainingInfo) -> None:
    """Write the report for people. The outcome is in the ledger already: an error here does not change it."""
    from scanfleet.worker.evaluation.plots import write_report

    title = f"training {training.id}: {training.check_name} on {training.base_model}"
    try:
        write_report(work.path, work.read(REPORT), title=title)
    except Exception:
        log.exception("report_failed", training=training.id)


def identity_of(training: TrainingInfo, settings: Settings) -> dict[str, Any]:
    """The identity of the work folder, which includes the base model's revision. Raises TrainingFailed."""
    try:
        revision = locate(settings.model, revision=settings.model_revision).revision
    except ModelInvalid as error:
        raise TrainingFailed(f"model: {error}") from error
    names = ("id", "check_id", "base_model", "recipe", "overrides", "seed", "newest_label")
    base = {"base_revision": revision, "precision": settings.precision}
    return {name: getattr(training, name) for name in names} | {"created_at": training.created_at.isoformat()} | base


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
