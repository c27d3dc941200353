"""Results in brief, for passes over a whole scan: what figures and a choice of images need, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.results.results import Result, ResultFilter, _result, _select, result_columns, select_results
from scanfleet.db.tables import Image

PAGE_IMAGES = 5000
CHUNK_IMAGES = 500  # per statement


class Brief(NamedTuple):
    """One image of a scan, as `Result` has it. stage and reason: of its failure."""

    image_id: int
    uri: str
    state: str
    content_sha256: str | None
    meta: dict[str, Any] | None
    label: str | None
    decision: str | None
    score: float | None
    margin: float | None
    stage: str | None
    reason: str | None


def iter_brief(engine: sa.Engine, wanted: ResultFilter) -> Iterator[Brief]:
    """Yield every image that matches, oldest first, in one short read per page."""
    columns = result_columns(wanted)
    every, after = select_results(wanted, [columns[name] for name in Brief._fields]), 0
    while True:
        query = every.where(Image.id > after).order_by(Image.id).limit(PAGE_IMAGES)
        with reading(engine, long=True) as connection:
            page = [Brief._make(row) for row in connection.execute(query)]
        yield from page
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].image_id


def results_of(
    connection: sa.Connection, scan: str, image_ids: Sequence[int], *, as_of: datetime | None = None
) -> list[Result]:
    """Return these images of a scan in full, in their order; those that are no longer there are left out.

    as_of: with the answers that stood at this time.
    """
    found: dict[int, Result] = {}
    for start in range(0, len(image_ids), CHUNK_IMAGES):
        these = Image.id.in_(image_ids[start : start + CHUNK_IMAGES])
        rows = connection.execute(_select(ResultFilter(scan=scan, as_of=as_of)).where(these))
        found |= {row.image_id: _result(row) for row in rows}
    return [found[image_id] for image_id in image_ids if image_id in found]
