"""Results found from their answers: the highest scores, and those within bounds, by the index of each scan's scores.

The answer of an image is a verdict of its scan, or of a rescan that renews it. A scan's best score bounds all of its
others, so that of many scans only those are read further that may have a place among the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import aliased

from scanfleet.db.pointers import is_answered_by
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.tables import CheckRow, Failure, Image, Scan, ScorerRow, Verdict

FIRST_SCANS = 4  # that are read for the highest scores; then four times as many

_own = aliased(Image, name="own")
_HIGHEST = (Verdict.score.desc().nulls_last(), Verdict.margin.desc().nulls_last())


class Rank(NamedTuple):
    """Sorts as `top_results` does by score."""

    uncalibrated: bool
    score: float
    margin: float


def highest(connection: sa.Connection, wanted: ResultFilter, *, limit: int) -> list[int]:
    """Return the images with the highest scores that match, by score, margin and id; those without an answer not."""
    bounds = sorted(_best_of_scans(connection, wanted))
    found: list[tuple[Rank, int]] = []
    start, size = 0, FIRST_SCANS
    while start < len(bounds) and (len(found) < limit or found[-1][0] >= bounds[start][0]):
        scans = [scan for _, scan in bounds[start : start + size]]
        found = sorted([*found, *_highest_of(connection, wanted, scans, limit)])[:limit]
        start, size = start + size, size * 4
    return [image for _, image in found]


def _best_of_scans(connection: sa.Connection, wanted: ResultFilter) -> list[tuple[Rank, str]]:
    """Return the highest rank of any verdict of each scan, current or not."""
    best = sa.select(Verdict.score, Verdict.margin).where(Verdict.scan_id == Scan.id).order_by(*_HIGHEST).limit(1)
    top = best.lateral("top")
    query = sa.select(Scan.id, top.c.score, top.c.margin).join(top, sa.true()).where(_scans_of(wanted))
    return [(_rank(row), row.id) for row in connection.execute(query)]


def _highest_of(
    connection: sa.Connection, wanted: ResultFilter, scans: Sequence[str], limit: int
) -> list[tuple[Rank, int]]:
    given = sa.select(Scan.id).where(Scan.id.in_(scans)).subquery("given")
    first = select_by_answer(wanted, Image.id, Verdict.score, Verdict.margin).where(Verdict.scan_id == given.c.id)
    each = first.order_by(*_HIGHEST, Image.id).limit(limit).lateral("each")
    query = sa.select(each.c.id, each.c.score, each.c.margin).select_from(given.join(each, sa.true()))
    return [(_rank(row), row.id) for row in connection.execute(query)]


def _rank(row: sa.Row[Any]) -> Rank:
    return Rank(row.score is None, -(row.score or 0.0), -row.margin)


def within(connection: sa.Connection, wanted: ResultFilter, *, limit: int, few: int) -> list[int] | None:
    """Return the first images by id whose score lies within the bounds; None: more than `few` verdicts do."""
    ranged = (
        sa.select(Verdict.id).where(Verdict.scan_id == Scan.id, *_bounds(wanted)).order_by(*_HIGHEST).limit(few + 1)
    )
    each = ranged.lateral("each")
    query = sa.select(each.c.id).select_from(Scan).join(each, sa.true()).where(_scans_of(wanted)).limit(few + 1)
    verdicts = list(connection.execute(query).scalars())
    if len(verdicts) > few:
        return None
    these = Verdict.id == sa.any_(sa.literal(verdicts, postgresql.ARRAY(sa.BigInteger)))
    chosen = select_by_answer(wanted, Image.id).where(these).order_by(Image.id + 0).limit(limit)
    return list(connection.execute(chosen).scalars())


def scans_without_scores(connection: sa.Connection, wanted: ResultFilter) -> list[str]:
    """Return the scans that have a verdict without a score, and those that they renew."""
    any_one = (
        sa.select(Verdict.id).where(Verdict.scan_id == Scan.id, Verdict.score.is_(None)).limit(1).lateral("any_one")
    )
    query = sa.select(Scan.id, Scan.rescan_of).join(any_one, sa.true()).where(_scans_of(wanted))
    return sorted({name for row in connection.execute(query) for name in row if name is not None})


def _bounds(wanted: ResultFilter) -> list[sa.ColumnElement[bool]]:
    found = []
    if wanted.min_score is not None:
        found.append(Verdict.score >= wanted.min_score)
    if wanted.max_score is not None:
        found.append(Verdict.score <= wanted.max_score)
    return found


def _scans_of(wanted: ResultFilter) -> sa.ColumnElement[bool]:
    """Whether verdicts of a scan may answer what is wanted."""
    if not wanted.scan:
        return sa.true()
    scans = [wanted.scan] if isinstance(wanted.scan, str) else list(wanted.scan)
    return sa.or_(Scan.id.in_(scans), Scan.rescan_of.in_(scans))


def select_by_answer(wanted: ResultFilter, *columns: Any) -> sa.Select[Any]:
    """Select columns of `ResultFilter.joined`, of images with an answer, beginning with the verdicts."""
    answered = sa.and_(Image.id.in_((_own.id, _own.rescan_of)), is_answered_by(Image, Verdict))
    return (
        sa.select(*columns)
        .select_from(Verdict)
        .join(_own, _own.id == Verdict.image_id)
        .join(Image, answered)
        .join(Scan, Scan.id == Image.scan_id)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        .outerjoin(Failure, Failure.image_id == Image.id)
        .where(*replace(wanted, tried=False).conditions())
    )
