"""The history of labels with their state, conflicts between people, and undoing labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from scanfleet.db.engine import now, reading
from scanfleet.db.labels.queries import counting, split_for, undone
from scanfleet.db.tables import Label, LabelledImage
from scanfleet.errors import UnknownName

PAGE_ROWS = 500

State = Literal["counts", "conflict", "replaced", "undone"]


@dataclass(frozen=True, kw_only=True)
class LabelLine:
    """A label as it was given.

    state: counts; conflict: it would, but people differ; replaced: by a newer or settling one; undone.
    split: of its image, for its check.
    """

    id: int
    at: datetime
    check_name: str
    label: str
    boxes: list[Any] | None
    who: str
    state: State
    split: str
    uri: str
    content_sha256: str
    origin: str
    settles: bool
    drawn: str | None
    note: str | None
    shown: dict[str, Any] | None
    attributes: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelFilter:
    """A filter of labels; unset fields match all."""

    check_name: str | None = None
    label: str | None = None
    split: str | None = None
    who: str | None = None
    since: datetime | None = None
    ids: Sequence[int] | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found: list[sa.ColumnElement[bool]] = [Label.undoes.is_(None)]
        for column, value in ((Label.check_name, self.check_name), (Label.label, self.label), (Label.who, self.who)):
            if value is not None:
                found.append(column == value)
        if self.split is not None:
            found.append(split_for(Label.check_name) == self.split)
        if self.since is not None:
            found.append(Label.at >= self.since)
        if self.ids is not None:
            found.append(Label.id.in_(self.ids))
        return found


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """An image that people label differently. labels: the labels that count, the oldest first."""

    content_sha256: str
    uri: str
    labels: list[LabelLine]


def iter_labels(engine: sa.Engine, wanted: LabelFilter, *, limit: int | None = None) -> Iterator[LabelLine]:
    """Yield the labels, the newest first, in one short read per page."""
    before: int | None = None
    left = limit
    while left is None or left > 0:
        size = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
        query = _select().where(*wanted.conditions()).order_by(Label.id.desc()).limit(size)
        if before is not None:
            query = query.where(Label.id < before)
        with reading(engine, long=True) as connection:
            page = _lines(connection, query)
        yield from page
        if len(page) < size:
            return
        before = page[-1].id
        left = None if left is None else left - size


def labels_of_contents(connection: sa.Connection, wanted: LabelFilter, contents: Sequence[str]) -> list[LabelLine]:
    """Return the labels of these images (content hashes), the oldest first."""
    found: list[LabelLine] = []
    for start in range(0, len(contents), PAGE_ROWS):
        these = Label.content_sha256.in_(contents[start : start + PAGE_ROWS])
        found += _lines(connection, _select().where(*wanted.conditions(), these).order_by(Label.id))
    return found


def iter_conflicts(engine: sa.Engine, check_name: str) -> Iterator[Conflict]:
    """Yield the images in conflict, by content hash, in one short read per page."""
    after = ""
    while True:
        images = (
            sa.select(Label.content_sha256)
            .where(Label.check_name == check_name, Label.content_sha256 > after)
            .distinct()
            .order_by(Label.content_sha256)
            .limit(PAGE_ROWS)
        )
        with reading(engine, long=True) as connection:
            keys = list(connection.execute(images).scalars())
            page = _conflicts(connection, check_name, keys)
        yield from page
        if len(keys) < PAGE_ROWS:
            return
        after = keys[-1]


def count_conflicts(connection: sa.Connection, check_name: str) -> int:
    """Count the images on which people differ."""
    counts = counting(check_name)
    images = sa.select(sa.func.count(counts.c.content_sha256.distinct())).where(counts.c.disputed)
    return connection.execute(images).scalar_one()


def count_labels(connection: sa.Connection, wanted: LabelFilter) -> int:
    """Count the labels of a filter that are not undone yet."""
    query = sa.select(sa.func.count()).select_from(Label).join(LabelledImage, _SAME_IMAGE)
    return connection.execute(query.where(*wanted.conditions(), ~undone(Label))).scalar_one()


def undo_labels(connection: sa.Connection, wanted: LabelFilter, *, who: str) -> int:
    """Undo labels, with a row for each that is not undone yet. Returns their number.

    Raises UnknownName for an id without a label; then the transaction must not be committed.
    """
    if wanted.ids is not None:
        query = sa.select(Label.id).where(Label.id.in_(wanted.ids), Label.undoes.is_(None))
        if unknown := sorted(set(wanted.ids) - set(connection.execute(query).scalars())):
            names = ", ".join(map(str, unknown[:5]))
            raise UnknownName(f"no label {names}: `scanfleet labels ls` lists them")
    columns = (Label.check_name, Label.content_sha256, Label.uri, Label.label, Label.id)
    chosen = (
        sa.select(*columns, sa.literal(who), sa.literal("undo"), sa.literal(now(connection), Label.at.type))
        .join(LabelledImage, _SAME_IMAGE)
        .where(*wanted.conditions(), ~undone(Label))
        .order_by(Label.id)
    )
    filled = ["check_name", "content_sha256", "uri", "label", "undoes", "who", "origin", "at"]
    rows = sa.insert(Label).from_select(filled, chosen).returning(Label.id)
    return len(connection.execute(rows).all())


_SAME_IMAGE = LabelledImage.content_sha256 == Label.content_sha256
_PLAIN = (
    "id", "at", "check_name", "label", "boxes", "who", "content_sha256", "origin", "settles", "drawn", "note", "shown",
    "attributes",
)  # fmt: skip


def _select() -> sa.Select[Any]:
    return (
        sa.select(*(Label.__table__.c[name] for name in _PLAIN))
        .add_columns(sa.func.coalesce(Label.uri, LabelledImage.uri).label("uri"))
        .add_columns(split_for(Label.check_name).label("split"), undone(Label).label("undone"))
        .join(LabelledImage, _SAME_IMAGE)
    )


def _conflicts(connection: sa.Connection, check_name: str, images: Sequence[str]) -> list[Conflict]:
    counts = counting(check_name, Label.content_sha256.in_(images))
    disputed = sa.select(counts.c.id).where(counts.c.disputed)
    by_image: dict[str, list[LabelLine]] = {}
    for line in _lines(connection, _select().where(Label.id.in_(disputed)).order_by(Label.content_sha256, Label.id)):
        by_image.setdefault(line.content_sha256, []).append(line)
    return [Conflict(content_sha256=image, uri=labels[-1].uri, labels=labels) for image, labels in by_image.items()]


def _lines(connection: sa.Connection, query: sa.Select[Any]) -> list[LabelLine]:
    rows = connection.execute(query).all()
    states: dict[int, State] = {}
    for check_name in {row.check_name for row in rows}:
        images = {row.content_sha256 for row in rows if row.check_name == check_name}
        counts = counting(check_name, Label.content_sha256.in_(images))
        for found in connection.execute(sa.select(counts.c.id, counts.c.disputed)):
            states[found.id] = "conflict" if found.disputed else "counts"
    return [_line(row, states) for row in rows]


def _line(row: sa.Row[Any], states: dict[int, State]) -> LabelLine:
    state: State = "undone" if row.undone else states.get(row.id, "replaced")
    values = {name: value for name, value in row._mapping.items() if name != "undone"}
    return LabelLine(**values, state=state)


def as_record(line: LabelLine) -> dict[str, Any]:
    """Return a label as plain values."""
    return asdict(line) | {"at": line.at.isoformat()}
