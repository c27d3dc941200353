"""Says that the adapter in use for a check's name does not answer the check, because it learnt other words."""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.db.scans.checks import find_version
from scanfleet.db.training.champions import champion


def unused_adapter(connection: sa.Connection, check: Check, base_model: str) -> str | None:
    """Return one line that names the adapter and what differs; None if it answers, or if that is not known here."""
    used = champion(connection, check.name, base_model)
    learnt = None if used is None else find_version(connection, check.name, used.check_hash)
    if used is None or learnt is None:
        return None
    if check.steps:
        reason = "the check is asked in steps"
    elif (field := check.reads_otherwise(learnt)) is not None:
        reason = f"it learnt other {field} (`scanfleet adapters show {used.id}`)"
    else:
        return None
    return f"adapter {used.id} is in use for {check.name}, but not for this version: {reason}; the base answers alone"
