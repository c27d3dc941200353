"""The changes of a rescan: each answer that it renewed, against the previous one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.engine import reading
from scanfleet.db.tables import Adapter, Image, ScorerRow, Verdict

PAGE_IMAGES = 500

_old = orm.aliased(Verdict, name="old")
_new = orm.aliased(Verdict, name="new")
_SIDES = (("old", _old), ("new", _new))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One of the two answers of an image. score: probability; None when not calibrated. margin: logits."""

    label: str
    decision: str
    score: float | None
    margin: float
    scorer_id: int


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image of a rescan whose label or decision changed."""

    image_id: int  # in the rescan
    uri: str
    drawn: str  # why it was chosen: band, audit, all
    old: Answer
    new: Answer


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Renewed answers that were equal before, and are equal now."""

    drawn: str
    old_label: str
    old_decision: str
    new_label: str
    new_decision: str
    n_images: int


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A scorer on one side of the comparison: old or new."""

    side: str
    id: int
    base_model: str
    precision: str
    mode: str | None
    adapter_id: int | None  # None: the base model alone
    weights: str | None  # SHA-256 of the adapter's
    n_images: int


def count_renewed(connection: sa.Connection, scan_id: str) -> list[Cell]:
    """Count the renewed answers of a rescan."""
    columns = (
        Image.drawn,
        _old.label.label("old_label"),
        _old.decision.label("old_decision"),
        _new.label.label("new_label"),
        _new.decision.label("new_decision"),
    )
    query = _renewed(scan_id, *columns, sa.func.count().label("n_images")).group_by(*columns).order_by(*columns)
    return [Cell(**row._mapping) for row in connection.execute(query)]


def count_drawn(connection: sa.Connection, scan_id: str) -> dict[tuple[str, str], int]:
    """Return (why it was chosen, state) -> images of a rescan."""
    columns = (Image.drawn, Image.state)
    query = sa.select(*columns, sa.func.count().label("n")).where(Image.scan_id == scan_id).group_by(*columns)
    return {(row.drawn, row.state): row.n for row in connection.execute(query)}


def scorers_compared(connection: sa.Connection, scan_id: str) -> list[Compared]:
    """Return the scorers of the old and the new answers, the most frequent first."""
    found = []
    for side, answer in _SIDES:
        n = sa.func.count().label("n_images")
        columns = (ScorerRow.id, ScorerRow.base_model, ScorerRow.precision, ScorerRow.mode, ScorerRow.adapter_id)
        query = _renewed(scan_id, *columns, Adapter.weights_sha256.label("weights"), n)
        query = query.join(ScorerRow, ScorerRow.id == answer.scorer_id)
        query = query.outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)
        query = query.group_by(*columns, Adapter.weights_sha256).order_by(n.desc(), ScorerRow.id)
        found += [Compared(side=side, **row._mapping) for row in connection.execute(query)]
    return found


def iter_flips(engine: sa.Engine, scan_id: str, *, limit: int | None = None) -> Iterator[Flip]:
    """Yield every change, by image, in one short read per page."""
    after, left = 0, limit
    while left is None or left > 0:
        size = PAGE_IMAGES if left is None else min(PAGE_IMAGES, left)
        with reading(engine, long=True) as connection:
            page = [_flip(row) for row in connection.execute(_changed(scan_id, after=after, limit=size))]
        yield from page
        if len(page) < size:
            return
        after = page[-1].image_id
        left = None if left is None else left - size


def _changed(scan_id: str, *, after: int, limit: int) -> sa.Select[Any]:
    names = Answer.__dataclass_fields__
    columns = [getattr(side, name).label(f"{side_name}_{name}") for side_name, side in _SIDES for name in names]
    query = _renewed(scan_id, Image.id, Image.uri, Image.drawn, *columns)
    changed = sa.or_(_old.label != _new.label, _old.decision != _new.decision)
    return query.where(changed, Image.id > after).order_by(Image.id).limit(limit)


def _flip(row: sa.Row[Any]) -> Flip:
    sides = {
        side: Answer(**{name: getattr(row, f"{side}_{name}") for name in Answer.__dataclass_fields__})
        for side in ("old", "new")
    }
    return Flip(image_id=row.id, uri=row.uri, drawn=row.drawn, **sides)


def _renewed(scan_id: str, *columns: Any) -> sa.Select[Any]:
    """True for images of a rescan whose verdict replaced another one."""
    return (
        sa.select(*columns)
        .select_from(Image)
        .join(_old, _old.id == Image.replaced)
        .join(_new, _new.id == Image.verdict_id)
        .where(Image.scan_id == scan_id)
    )
