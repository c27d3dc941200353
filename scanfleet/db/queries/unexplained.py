"""Flagged images of a scan that lack the explanation which the check asks for."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.tables import Image, Verdict


@dataclass(frozen=True, kw_only=True)
class Unexplained:
    """n: images without an explanation, by their current answers. reason: of one of them."""

    n: int
    reason: str


def count_unexplained(connection: sa.Connection, scan_id: str) -> Unexplained | None:
    """Return None if every explanation that was asked for is there."""
    problem = Verdict.explanation["problem"].as_string()
    query = (
        sa.select(sa.func.count().label("n"), sa.func.min(problem).label("reason"))
        .join(Image, Image.verdict_id == Verdict.id)
        .where(Image.scan_id == scan_id, Verdict.explanation.is_not(None), problem.is_not(None))
    )
    row = connection.execute(query).one()
    return Unexplained(n=row.n, reason=row.reason) if row.n else None
