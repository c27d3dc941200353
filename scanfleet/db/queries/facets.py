"""Counts of results by dimensions, grouped in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.queries.dimensions import Dimension, teach
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.tables import Failure, Verdict
from scanfleet.errors import RequestError
from scanfleet.stats.proportions import Proportion


@dataclass(frozen=True, kw_only=True)
class Facet:
    """The images that share these values; None: the image has none. answered: images with a verdict."""

    values: tuple[str | None, ...]
    images: int
    answered: int
    flagged: int
    review: int
    failed: int

    @property
    def flag_share(self) -> Proportion:
        """Of the answered images."""
        return Proportion(k=self.flagged, n=self.answered)


def count_by(
    connection: sa.Connection, wanted: ResultFilter, dimensions: Sequence[Dimension], *, limit: int
) -> list[Facet]:
    """Count the results: by time where a dimension is one, else the largest first.

    Raises RequestError for a name that is no field, and no column of the manifest of any of these images.
    """
    teach(connection)
    found = connection.execute(_query(connection, wanted, dimensions, limit)).all()
    facets = [
        Facet(
            values=tuple(row[: len(dimensions)]),
            images=row.images,
            answered=int(row.answered),
            flagged=int(row.flagged),
            review=int(row.review),
            failed=int(row.failed),
        )
        for row in found
    ]
    for place, dimension in enumerate(dimensions):
        if dimension.guessed and facets and all(facet.values[place] is None for facet in facets):
            raise RequestError(f"--by {dimension.name}: no field, and no image of these has such a column")
    return facets


def _query(
    connection: sa.Connection, wanted: ResultFilter, dimensions: Sequence[Dimension], limit: int
) -> sa.Select[tuple[int, ...]]:
    named: list[sa.Label[Any]] = [
        dimension.column(connection, wanted).label(f"by_{place}") for place, dimension in enumerate(dimensions)
    ]
    counted = (Verdict.decision.label("decision"), Failure.image_id.label("failure"))
    each = wanted.joined(*named, *counted).subquery("each")
    keys = [each.c[column.name] for column in named]
    decision, failure = each.c.decision, each.c.failure

    def number(name: str, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0)).label(name)

    images = sa.func.count().label("images")
    by_time = any(dimension.is_period for dimension in dimensions)
    return (
        sa.select(*keys, images)
        .add_columns(
            number("answered", decision.is_not(None)),
            number("flagged", decision == "flag"),
            number("review", decision == "review"),
            number("failed", failure.is_not(None)),
        )
        .group_by(*keys)
        .order_by(*([] if by_time else [images.desc()]), *(key.asc().nulls_last() for key in keys))
        .limit(limit)
    )
