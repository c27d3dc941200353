"""Failures of images: recorded once, with stage and reason."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import Failure, Image
from scanfleet.errors import ImageError

MAX_DETAIL = 500  # characters


def record(connection: sa.Connection, *, scan_id: str, failures: Mapping[int, ImageError]) -> None:
    """Write the failures, by image id, and end those images. The counts of the batch are the caller's."""
    if not failures:
        return
    at = now(connection)
    rows = [
        {
            "image_id": image_id,
            "scan_id": scan_id,
            "stage": error.stage,
            "reason": error.reason,
            "detail": error.detail[:MAX_DETAIL],
            "at": at,
        }
        for image_id, error in failures.items()
    ]
    connection.execute(sa.insert(Failure), rows)
    connection.execute(sa.update(Image).where(Image.id.in_(list(failures))).values(state="failed"))
