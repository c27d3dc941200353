"""Pointers between rows that no foreign key holds.

SQLite could add one only by writing the table anew, and on PostgreSQL one would cost each answer a lock.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, aliased

from scanfleet.db.engine import reading
from scanfleet.db.tables import Image, Scan, ScorerRow, Verdict
from scanfleet.errors import DanglingPointers

_POINTERS: tuple[tuple[InstrumentedAttribute[Any], Any], ...] = (
    (Image.verdict_id, Verdict),
    (Image.replaced, Verdict),
    (Image.rescan_of, Image),
    (Verdict.reused_from, Verdict),
    (Verdict.image_id, Image),
    (Verdict.scan_id, Scan),
    (Verdict.scorer_id, ScorerRow),
    (Scan.rescan_of, Scan),
)


def is_answered_by(image: Any, verdict: Any) -> sa.ColumnElement[bool]:
    """Whether a verdict is the answer that stands for an image that it is known to be about.

    Written as a range: beside an equality of the images' ids, PostgreSQL would expect this equality to hold for none.
    """
    return sa.and_(image.verdict_id >= verdict.id, image.verdict_id <= verdict.id)


def count_dangling(connection: sa.Connection) -> dict[str, int]:
    """Return by column, as `images.verdict_id`: the number of its rows that point to nothing. Reads whole tables."""
    found = {}
    for pointer, table in _POINTERS:
        target = aliased(table)
        lost = (pointer.is_not(None), ~sa.exists().where(target.id == pointer))
        n = connection.execute(sa.select(sa.func.count()).select_from(pointer.class_).where(*lost)).scalar_one()
        if n:
            found[f"{pointer.class_.__tablename__}.{pointer.key}"] = n
    return found


def check_pointers(engine: sa.Engine) -> None:
    """Raise DanglingPointers, which names the columns, if a row points to nothing."""
    with reading(engine, long=True) as connection:
        found = count_dangling(connection)
    if found:
        columns = ", ".join(f"{n} of {column}" for column, n in found.items())
        raise DanglingPointers(
            f"rows point to rows that are gone: {columns}: restore them from a backup; "
            "`scanfleet scans delete` removes scans whole"
        )
