"""A few images that somebody waits for: scans of their own, whose batches workers claim before all others.

They are scans like others, so that the same workers, scorers, retries and tables answer them. Their kind keeps them out
of the list of scans, of which they would be most. A scan that stays open and takes every request of a day would be
neither: it never ends, and its counts and doubts mix what has nothing to do with each other.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from celery import Celery

from scanfleet.checks.check import Check
from scanfleet.checks.passes import plan_passes
from scanfleet.config.settings import Settings
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.scans.checks import save_check
from scanfleet.db.scans.new_images import NewImage, add_images
from scanfleet.db.scans.notifications import mark_notified
from scanfleet.db.scans.scans import REQUEST, add_scan
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import RequestError, UnknownName
from scanfleet.messages import score_queue
from scanfleet.reconcile import notify_all
from scanfleet.retry import retry_database

MAX_CHECKS = 16  # of one request


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was enqueued. scans: one for each check, in their order."""

    id: str
    scans: tuple[str, ...]
    batches: tuple[int, ...]


def ask(
    engine: sa.Engine, app: Celery, settings: Settings, *, images: Sequence[NewImage], checks: Sequence[Check]
) -> Asked:
    """Write the scans and notify workers. A broker that is away costs time: the reconciler notifies again.

    Raises RequestError (too many checks, an image that was forgotten), DatabaseUnavailable.
    """
    if not 0 < len(checks) <= MAX_CHECKS:
        raise RequestError(f"name 1 to {MAX_CHECKS} checks")
    request_id = secrets.token_hex(12)
    asked = retry_database(lambda: _write(engine, settings, request_id, images, checks))
    queue = score_queue(settings.model)
    notify_all(engine, app, [(batch_id, queue) for batch_id in asked.batches])
    return asked


def _write(
    engine: sa.Engine, settings: Settings, request_id: str, images: Sequence[NewImage], checks: Sequence[Check]
) -> Asked:
    planned = plan_passes(checks, model=settings.model)
    pass_ids = {check.hash: each.id(request_id) for each in planned for check in each.checks}
    scans: list[str] = []
    batches: list[int] = []
    with transaction(engine) as connection:
        for name, check in zip(_identities(request_id), checks, strict=False):
            scan = add_scan(
                connection,
                identity=name,
                check_id=save_check(connection, check),
                model=settings.model,
                queue=score_queue(settings.model),
                sources=[image.uri for image in images],
                filters={},
                pass_id=pass_ids[check.hash],
                n_listed=len(images),
                kind=REQUEST,
            )
            size = settings.batch_images
            added = add_images(
                connection, scan_id=scan.id, queue=scan.queue, images=images, batch_images=size, urgent=True
            )
            if not added:
                raise RequestError("this image was forgotten (`scanfleet forget`): it is scored no more")
            scans.append(scan.id)
            batches += added
        mark_notified(connection, batches, at=now(connection))
    return Asked(id=request_id, scans=tuple(scans), batches=tuple(batches))


def find_asked(engine: sa.Engine, request_id: str) -> Asked:
    """Return an earlier request. Raises UnknownName."""
    with reading(engine) as connection:
        query = sa.select(Scan.id).where(Scan.identity.in_(_identities(request_id)), Scan.kind == REQUEST)
        scans = connection.execute(query.order_by(Scan.identity)).scalars().all()
        batches = connection.execute(sa.select(Batch.id).where(Batch.scan_id.in_(scans))).scalars().all()
    if not scans:
        raise UnknownName(f"no request {request_id[:40]!r}, or it is no longer kept (setting serve_keep_hours)")
    return Asked(id=request_id, scans=tuple(scans), batches=tuple(batches))


def open_batches(engine: sa.Engine, batch_ids: Sequence[int]) -> dict[int, str | None]:
    """Return those of these batches that are not settled, with the transient error that each waits for."""
    query = sa.select(Batch.id, Batch.waiting_for).where(Batch.id.in_(batch_ids), Batch.state.in_(("ready", "leased")))
    with reading(engine) as connection:
        return {row.id: row.waiting_for for row in connection.execute(query)}


def _identities(request_id: str) -> list[str]:
    return [f"{request_id}.{at:02d}" for at in range(MAX_CHECKS)]
