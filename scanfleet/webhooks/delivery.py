"""Delivers the webhooks of scans that have ended. Any number of processes may do so: at least once, rarely twice.

Whoever reconciles does it, if it has the settings for it: score workers, training workers, waiting commands.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
import structlog

from scanfleet.config.settings import Settings
from scanfleet.config.webhook_address import sends_webhooks
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.results import count_failures
from scanfleet.db.scans import scans, webhooks
from scanfleet.webhooks.sending import send

AT_ONCE = 8  # in one round

log = structlog.get_logger()


def deliver_due(engine: sa.Engine, settings: Settings, *, scan_id: str | None = None) -> int:
    """Send what is due, each once. Returns how many were accepted. Raises DatabaseUnavailable.

    scan_id: of this scan alone.
    """
    n_sent = 0
    for _ in range(AT_ONCE if sends_webhooks(settings) else 0):
        with transaction(engine) as connection:
            due = webhooks.take_due(connection, scan_id=scan_id)
        if due is None:
            break
        body = json.dumps(_payload(engine, due)).encode()
        error = send(due.url, body, event=due.event, settings=settings)
        with transaction(engine) as connection:
            webhooks.settle(connection, due, error=error)
        if error is None:
            n_sent += 1
            log.info("webhook_sent", scan=due.scan_id, attempt=due.attempts)
        else:
            log.warning("webhook_failed", scan=due.scan_id, attempt=due.attempts, error=error)
    return n_sent


def _payload(engine: sa.Engine, due: webhooks.Due) -> dict[str, Any]:
    with reading(engine) as connection:
        scan = scans.get_scan(connection, due.scan_id)
        done = scans.progress(connection, scan.id)
        failures = count_failures(connection, scan.id)
    return {
        "event": due.event,
        "kind": "scan.ended",
        "scan": scan.id,
        "check": scan.check,
        "model": scan.model,
        "state": scan.state,
        "rescan_of": scan.rescan_of,
        "images": done.n_images,
        "scored": done.n_verdicts,
        "flag": done.n_flagged,
        "review": done.n_review,
        "clear": done.n_verdicts - done.n_flagged - done.n_review,
        "failed": done.n_failures,
        "cancelled": done.n_cancelled,
        "failures": [{"stage": stage, "reason": reason, "images": n} for (stage, reason), n in failures.items()],
        "created_at": scan.created_at.isoformat(),
        "finished_at": scan.finished_at and scan.finished_at.isoformat(),
    }
