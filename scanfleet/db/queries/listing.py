"""The first results that match, in the order of their ids or sorted, without reading those before them.

What no count and no index knows is found by a walk through the images, the oldest first: fields of a manifest, and
prefixes of more than FEW names. Such a walk stops with the last result that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.queries import by_answer, by_batch
from scanfleet.db.results.answers import scored_at
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.portable import by_bytes, starts_with
from scanfleet.db.results.results import Result, _result, _select, iter_results
from scanfleet.db.tables import Image, Verdict

FEW = 10_000  # candidates that are read and sorted; more lie so densely that a walk through the images finds enough
CHUNK_IMAGES = 500  # per statement


def first_results(engine: sa.Engine, wanted: ResultFilter, *, limit: int) -> list[Result]:
    """Return what `iter_results` yields, up to a limit."""
    with reading(engine, long=True) as connection:
        ids = _first_ids(connection, wanted, limit=limit)
        if ids is not None:
            return in_order(connection, wanted, ids)
    return list(iter_results(engine, wanted, limit=limit))


def _first_ids(connection: sa.Connection, wanted: ResultFilter, *, limit: int) -> list[int] | None:
    """Return the first images that match, by the way that knows where they are; None: walk through the images."""
    if wanted.as_of is not None or wanted.uri or wanted.since is not None:
        return None  # an index serves the last two
    if wanted.prefix:
        return _below(connection, wanted, wanted.prefix, limit)
    bounded = wanted.min_score is not None or wanted.max_score is not None
    if bounded and connection.dialect.name == "postgresql":
        ids = by_answer.within(connection, wanted, limit=limit, few=FEW)
        if ids is not None:
            return ids
    return by_batch.first_ids(connection, wanted, limit=limit)


def _below(connection: sa.Connection, wanted: ResultFilter, prefix: str, limit: int) -> list[int] | None:
    """Return the first images below a prefix; None: it has more than FEW."""
    names = sa.select(sa.literal(1)).where(starts_with(Image.uri, prefix)).limit(FEW + 1).subquery()
    if connection.execute(sa.select(sa.func.count()).select_from(names)).scalar_one() > FEW:
        return None
    # "+ 0": else the order of ids may seem the quicker way, which passes through all images before these.
    return list(connection.execute(wanted.joined(Image.id).order_by(Image.id + 0).limit(limit)).scalars())


ORDERS: dict[str, Any] = {  # as a person reads them: the highest, the newest or the first one first
    "score": Verdict.score.desc(),
    "margin": Verdict.margin.desc(),
    "unlike": Verdict.unlike.desc(),
    "size": Image.size.desc(),
    "scored_at": scored_at().element.desc(),
    "uri": by_bytes(Image.uri),
}
SORTS = (*ORDERS, *(f"-{name}" for name in ORDERS))  # "-": the other way round


def top_results(connection: sa.Connection, wanted: ResultFilter, *, limit: int, sort: str = "score") -> list[Result]:
    """Return the first results in one of SORTS, those without a value last. Equal scores go by margin.

    The highest scores are found by an index of PostgreSQL; the other orders read everything that matches.
    """
    if sort == "score" and wanted.as_of is None and connection.dialect.name == "postgresql":
        return _highest(connection, wanted, limit=limit)
    column = ORDERS[sort.removeprefix("-")]
    order = _reversed(column) if sort.startswith("-") else column
    query = _select(wanted).order_by(order.nulls_last(), Verdict.margin.desc().nulls_last(), Image.id).limit(limit)
    return [_result(row) for row in connection.execute(query)]


def _highest(connection: sa.Connection, wanted: ResultFilter, *, limit: int) -> list[Result]:
    ids = by_answer.highest(connection, wanted, limit=limit)
    others = by_batch.lacks_answers(wanted) if len(ids) < limit else None
    if others is not None:
        left = limit - len(ids)
        found = _first_ids(connection, others, limit=left)
        if found is None:
            found = list(connection.execute(others.joined(Image.id).order_by(Image.id).limit(left)).scalars())
        ids += found
    return in_order(connection, wanted, ids)


def _reversed(order: Any) -> Any:
    return order.element.asc() if isinstance(order, sa.UnaryExpression) else order.desc()


def in_order(connection: sa.Connection, wanted: ResultFilter, ids: Sequence[int]) -> list[Result]:
    found: dict[int, Result] = {}
    for start in range(0, len(ids), CHUNK_IMAGES):
        these = Image.id.in_(ids[start : start + CHUNK_IMAGES])
        found |= {row.image_id: _result(row) for row in connection.execute(_select(wanted).where(these))}
    return [found[image_id] for image_id in ids if image_id in found]


def count_uncalibrated(connection: sa.Connection, wanted: ResultFilter) -> int:
    """Count the answers that only the bounds of the score leave out, since they have none."""
    unbounded = replace(wanted, min_score=None, max_score=None)
    if connection.dialect.name == "postgresql" and wanted.as_of is None:
        scans = by_answer.scans_without_scores(connection, wanted)
        if not scans:
            return 0
        if not wanted.scan:
            query = unbounded.joined(sa.func.count()).where(Image.scan_id.in_(scans))
            return connection.execute(query.where(Verdict.id.is_not(None), Verdict.score.is_(None))).scalar_one()
    query = unbounded.joined(sa.func.count()).where(Verdict.id.is_not(None), Verdict.score.is_(None))
    return connection.execute(query).scalar_one()
