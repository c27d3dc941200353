"""The table of webhooks: who is told when a scan has ended."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base, one_of

WEBHOOK_STATES = ("waiting", "sent", "given_up")


class Webhook(Base):
    """A request to be sent once its scan has ended, and what became of it."""

    __tablename__ = "webhooks"
    __table_args__ = (
        one_of("state", WEBHOOK_STATES),
        sa.UniqueConstraint("scan_id", "url"),
        sa.Index(None, "state", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    scan_id: Mapped[str] = mapped_column(sa.ForeignKey("scans.id"))
    url: Mapped[str]  # whole: it may hold a token, so that readers do not see it (scanfleet.db.roles)
    shown: Mapped[str]  # without its query
    event: Mapped[str]  # sent along, the same at every attempt: the receiver knows a repeat by it
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]  # back-off, and while one process sends, until another may
    last_error: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
