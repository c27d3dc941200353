"""When a training starts by itself: enough new labels, a schedule, a drift alarm. Safe with several training workers.

None of them starts one that could only repeat the last: whatever became of that, there must be a label it did not know.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.drift import reference
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.labels.labels import count_since, labelled_checks, newest_label
from scanfleet.db.scans.checks import list_checks, save_check
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import AlreadyUnderWay

log = structlog.get_logger()


def look(engine: sa.Engine, settings: Settings) -> list[int]:
    """Request what is due, for each check that has labels. Returns the ids. Raises DatabaseUnavailable."""
    with reading(engine) as connection:
        checks = list_checks(connection)
        names = [name for name in labelled_checks(connection) if name in checks]
    started = [_look_at(engine, settings, checks[name]) for name in names if not checks[name].steps]
    return [training_id for training_id in started if training_id is not None]


def _look_at(engine: sa.Engine, settings: Settings, check: Check) -> int | None:
    with reading(engine, long=True) as connection:
        reason = why_train(connection, settings, check.name)
    if reason is None:
        return None
    try:
        with transaction(engine) as connection:
            training_id = trainings.request(
                connection,
                check_id=save_check(connection, check),
                check_name=check.name,
                base_model=settings.model,
                recipe=settings.train_recipe,
                reason=reason,
                newest_label=newest_label(connection, check.name),
            )
    except AlreadyUnderWay:
        return None  # another training worker saw the same at this moment
    log.info("training_requested", training=training_id, check=check.name, reason=reason)
    return training_id


def why_train(connection: sa.Connection, settings: Settings, check_name: str) -> str | None:
    """The reason to train now, in words; None: there is none."""
    last = trainings.newest(connection, check_name, settings.model)
    if last is not None and not last.ended:
        return None
    known = 0 if last is None else last.newest_label
    if not count_since(connection, check_name, known, splits=("train",)):
        return None  # a new set to calibrate or judge by would only be learnt past
    n_new = count_since(connection, check_name, known)
    labels = f"{n_new} new label{'' if n_new == 1 else 's'}"
    if n_new >= settings.train_after_labels:
        return f"{labels} (train_after_labels is {settings.train_after_labels})"
    if settings.train_every_hours is not None and _is_due(
        None if last is None else last.created_at, hours=settings.train_every_hours, at=now(connection)
    ):
        return f"schedule: every {settings.train_every_hours:g} h, and {labels}"
    if settings.train_on_drift:
        alarms = reference.alarms(connection, check_name)
        if alarms:
            return f"drift: {alarms[0]}; {labels}"
    return None


def _is_due(last: datetime | None, *, hours: float, at: datetime) -> bool:
    return last is None or at - last >= timedelta(hours=hours)
