"""Automatic trainings: enough new labels, a schedule, a drift alarm. Safe with several training workers.

A training is never repeated on the same labels: whatever the outcome of the last one, there must be a newer label.
After one that failed there must be many: a label more would make it fail again.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.drift import reference
from scanfleet.db.drift.corrections import newest_check
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.labels.labels import count_since, labelled_checks, newest_label
from scanfleet.db.scans.checks import list_checks, save_check
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import AlreadyUnderWay

log = structlog.get_logger()

MORE_LABELS, MORE_SHARE = 20, 0.2  # new labels before a training that failed is started again


def check_triggers(engine: sa.Engine, settings: Settings) -> list[int]:
    """Request the trainings that are due, for each check with labels. Returns their ids. Raises DatabaseUnavailable."""
    with reading(engine) as connection:
        known = list_checks(connection)
        # A check given as a file is known by the scans and labels that it was given for.
        found = [known.get(name) or newest_check(connection, name) for name in labelled_checks(connection)]
    requested = [_check_one(engine, settings, check) for check in found if check is not None and not check.steps]
    return [training_id for training_id in requested if training_id is not None]


def _check_one(engine: sa.Engine, settings: Settings, check: Check) -> int | None:
    with reading(engine, long=True) as connection:
        reason = reason_to_train(connection, settings, check.name)
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
        return None  # another training worker requested it at this moment
    log.info("training_requested", training=training_id, check=check.name, reason=reason)
    return training_id


def reason_to_train(connection: sa.Connection, settings: Settings, check_name: str) -> str | None:
    """The reason to train now, for people; None: there is none."""
    last = trainings.newest(connection, check_name, settings.model)
    if last is not None and not last.ended:
        return None
    newest = 0 if last is None else last.newest_label
    if not count_since(connection, check_name, newest, splits=("train",)):
        return None  # new labels of the other splits alone do not change the weights
    n_new = count_since(connection, check_name, newest)
    if last is not None and last.state == "failed" and n_new < labels_after_failure(connection, check_name, n_new):
        return None
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


def labels_after_failure(connection: sa.Connection, check_name: str, n_new: int) -> int:
    """The number of new labels that a failed training waits for: MORE_SHARE of those it had, MORE_LABELS at least."""
    n_before = count_since(connection, check_name, 0) - n_new
    return max(MORE_LABELS, math.ceil(MORE_SHARE * n_before))


def _is_due(last: datetime | None, *, hours: float, at: datetime) -> bool:
    return last is None or at - last >= timedelta(hours=hours)
