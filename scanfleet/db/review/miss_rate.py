"""How many of the unflagged images should have been flagged, by what people said of a random sample of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.labels.queries import counting
from scanfleet.db.tables import Label
from scanfleet.stats.proportions import wilson


@dataclass(frozen=True, kw_only=True)
class MissRate:
    """n: audited images. interval: of `share`, 95 % (Wilson)."""

    n: int
    missed: int

    @property
    def share(self) -> float | None:
        return self.missed / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.missed, self.n)


def miss_rate(connection: sa.Connection, check_name: str, *, flags: Collection[str]) -> MissRate:
    """Count the audited images on which people agree. flags: the check's flagging labels.

    Each content is drawn with the same probability, so no weights are needed. Images in conflict are left out.
    """
    audited = sa.select(Label.content_sha256).where(Label.check_name == check_name, Label.drawn == "audit")
    counts = counting(check_name, Label.content_sha256.in_(audited))
    query = (
        sa.select(sa.func.count(), sa.func.count(sa.case((counts.c.label.in_(list(flags)), 1))))
        .select_from(counts)
        .where(counts.c.place == 1, ~counts.c.disputed)
    )
    n, missed = connection.execute(query).one()
    return MissRate(n=n, missed=missed)
