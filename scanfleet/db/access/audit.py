"""Who decided or changed what, when, and from where. Rows are only added."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables.access import AccessAudit


def record(
    connection: sa.Connection,
    *,
    who: str,
    action: str,
    subject: str,
    token_id: int | None = None,
    address: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add a row in the caller's transaction: what it records is done, or neither is there."""
    row = {"at": now(connection), "token_id": token_id, "who": who, "action": action, "subject": subject}
    connection.execute(sa.insert(AccessAudit).values(row | {"address": address, "detail": detail}))
