"""Webhooks as rows: asked for, due once the scan has ended, taken by one process at a time, settled."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.db.clock import Moment
from scanfleet.db.engine import now
from scanfleet.db.tables import Scan, Webhook
from scanfleet.redaction import redact, storable
from scanfleet.retry import jittered

ENDED = ("done", "cancelled")
MAX_ATTEMPTS = 16  # over about five hours
MAX_PAUSE_SECONDS = 3600.0
TAKEN_SECONDS = 60.0  # after this another process may send: the one that took it has died


@dataclass(frozen=True, kw_only=True)
class Due:
    """A webhook that this process sends now. attempts: this one included."""

    id: int
    scan_id: str
    url: str
    event: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class WebhookInfo:
    """A webhook for people: without its whole address."""

    shown: str
    state: str
    attempts: int
    last_error: str | None
    not_before: datetime | None
    sent_at: datetime | None


def ask(connection: sa.Connection, scan_id: str, url: str) -> None:
    """Have this address told when the scan ends. One that was told before is told anew, as another event."""
    event = {"event": str(uuid.uuid4()), "state": "waiting", "attempts": 0}
    clean = {"not_before": None, "last_error": None, "sent_at": None}
    this = (Webhook.scan_id == scan_id, Webhook.url == url)
    connection.execute(sa.update(Webhook).where(*this, Webhook.state != "waiting").values(event | clean))
    row = event | {"scan_id": scan_id, "url": url, "shown": redact(url), "created_at": now(connection)}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(Webhook).values(row).on_conflict_do_nothing())


def any_due(at: Moment) -> sa.ColumnElement[bool]:
    """Whether `take_due` may find one."""
    return _due(at).exists()


def _due(at: Moment) -> sa.Select[tuple[int]]:
    ready = (Webhook.state == "waiting", sa.or_(Webhook.not_before.is_(None), Webhook.not_before <= at))
    return sa.select(Webhook.id).join(Scan, Scan.id == Webhook.scan_id).where(*ready, Scan.state.in_(ENDED))


def take_due(connection: sa.Connection, *, scan_id: str | None = None) -> Due | None:
    """Take the next webhook whose scan has ended, for this process alone for a while; None: there is none.

    scan_id: of this scan alone.
    """
    at = now(connection)
    pick = _due(at)
    if scan_id is not None:
        pick = pick.where(Webhook.scan_id == scan_id)
    one = pick.order_by(Webhook.id).limit(1).with_for_update(skip_locked=True, key_share=True, of=Webhook)
    taken = {"attempts": Webhook.attempts + 1, "not_before": at + timedelta(seconds=TAKEN_SECONDS)}
    update = sa.update(Webhook).where(Webhook.id == one.scalar_subquery(), Webhook.state == "waiting").values(taken)
    columns = (Webhook.id, Webhook.scan_id, Webhook.url, Webhook.event, Webhook.attempts)
    row = connection.execute(update.returning(*columns)).one_or_none()
    return None if row is None else Due(**row._mapping)


def settle(connection: sa.Connection, due: Due, *, error: str | None) -> None:
    """Record the end of an attempt; a process that another has overtaken changes nothing."""
    at = now(connection)
    if error is None:
        values = {"state": "sent", "sent_at": at, "not_before": None, "last_error": None}
    else:
        pause = timedelta(seconds=jittered(min(2.0**due.attempts, MAX_PAUSE_SECONDS)))
        over = due.attempts >= MAX_ATTEMPTS
        values = {"state": "given_up" if over else "waiting", "not_before": None if over else at + pause}
        values["last_error"] = storable(error)
    mine = (Webhook.id == due.id, Webhook.attempts == due.attempts, Webhook.event == due.event)
    connection.execute(sa.update(Webhook).where(*mine).values(values))


def webhooks_of(connection: sa.Connection, scan_id: str) -> list[WebhookInfo]:
    names = WebhookInfo.__dataclass_fields__
    query = sa.select(*(Webhook.__table__.c[name] for name in names)).where(Webhook.scan_id == scan_id)
    return [WebhookInfo(**row._mapping) for row in connection.execute(query.order_by(Webhook.id))]
