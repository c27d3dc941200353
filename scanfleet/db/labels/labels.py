"""People's labels of images. Rows are added, never changed; the current label follows from all of them.

A label belongs to a check's name and an image's bytes. A correction is another row: the newest of a person counts. An
undo is a row as well. Where people differ the image is in conflict, and not used until a label settles it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.engine import now, reading
from scanfleet.db.labels.queries import PINNED, counting, is_synthetic, split_for, undone
from scanfleet.db.tables import Label, LabelledImage

PAGE_IMAGES = 1000
CHUNK_ROWS = 500  # per statement
TEACHING = ("train", "calibration", "threshold")  # splits that an adapter is made from


@dataclass(frozen=True, kw_only=True)
class CurrentLabel:
    """The current label of an image, and the location of the image.

    boxes: [{x0, y0, x1, y1, label}], pixels of the upright image, perhaps with `attributes`; None: not given.
    drawn: why a person was asked about the image. shown: its verdict then. cluster: images of one group or with near
    hashes. split: for this check; "none": not to be used. attributes: of the image, name -> text. synthetic: the image
    was generated for this check.
    """

    label_id: int
    check_name: str
    content_sha256: str
    label: str
    boxes: list[Any] | None
    who: str
    at: datetime
    drawn: str | None
    shown: dict[str, Any] | None
    note: str | None
    uri: str
    root: str | None
    etag: str | None
    width: int  # pixels, upright
    height: int
    group: str | None  # as a person gave it
    cluster: str
    split: str
    attributes: dict[str, str] | None = None
    synthetic: bool = False

    @property
    def frame(self) -> int | None:
        """The picture that the label is about, of a file with several. None: not known, or the file holds one."""
        return None if self.shown is None else self.shown.get("frame")


@dataclass(frozen=True, kw_only=True)
class NewLabel:
    """A label to add. The image must be among the labelled images (`scanfleet.db.labels.splits`)."""

    content_sha256: str
    label: str
    who: str
    origin: str  # person, import, review, SYNTHETIC; PINNED: its image belongs to the golden set of the check by choice
    uri: str | None = None
    boxes: list[dict[str, Any]] | None = None
    settles: bool = False
    shown: dict[str, Any] | None = None
    drawn: str | None = None
    note: str | None = None
    attributes: dict[str, str] | None = None


def current_labels(
    connection: sa.Connection,
    check_name: str,
    *,
    up_to: int | None = None,
    after: str = "",
    limit: int = PAGE_IMAGES,
) -> list[CurrentLabel]:
    """A page of labels that stand, by content hash behind `after`; fewer than `limit` only at the end.

    up_to: labels (and undoings) with a higher id do not count.
    """
    found: list[CurrentLabel] = []
    while len(found) < limit:
        keys = _next_images(connection, check_name, after, limit - len(found))
        if not keys:
            break
        these = (Label.content_sha256 > after, Label.content_sha256 <= keys[-1])
        found += _select_current(connection, check_name, *these, up_to=up_to)
        after = keys[-1]
    return found


def iter_current_labels(engine: sa.Engine, check_name: str, *, up_to: int | None = None) -> Iterator[CurrentLabel]:
    """Every label that stands, as of now or of `up_to`. One short read a page."""
    if up_to is None:
        with reading(engine) as connection:
            up_to = newest_label(connection, check_name)
    after = ""
    while True:
        with reading(engine) as connection:
            page = current_labels(connection, check_name, up_to=up_to, after=after)
        yield from page
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].content_sha256


def current_label_of(connection: sa.Connection, check_name: str, images: Sequence[str]) -> dict[str, CurrentLabel]:
    """Return the current labels of these images by content hash."""
    found: dict[str, CurrentLabel] = {}
    for start in range(0, len(images), CHUNK_ROWS):
        these = Label.content_sha256.in_(images[start : start + CHUNK_ROWS])
        found |= {one.content_sha256: one for one in _select_current(connection, check_name, these, up_to=None)}
    return found


def labels_by_person(connection: sa.Connection, check_name: str, images: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the labels that count, by content hash and person."""
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(images), CHUNK_ROWS):
        counts = counting(check_name, Label.content_sha256.in_(images[start : start + CHUNK_ROWS]))
        for row in connection.execute(sa.select(counts.c.content_sha256, counts.c.who, counts.c.label)):
            found.setdefault(row.content_sha256, {})[row.who] = row.label
    return found


def newest_label(connection: sa.Connection, check_name: str) -> int:
    """Return the highest id of a check's labels, undos included; 0: there are none."""
    query = sa.select(sa.func.max(Label.id)).where(Label.check_name == check_name)
    return connection.execute(query).scalar_one() or 0


def count_since(
    connection: sa.Connection, check_name: str, label_id: int, *, splits: Collection[str] = TEACHING
) -> int:
    """Count the images with a current label newer than this one. splits: those to count.

    Golden images are left out by default: they judge adapters, and train none. Generated images never count: they are
    no news of the archive.
    """
    later = orm.aliased(Label)
    touched = sa.select(later.content_sha256).where(later.check_name == check_name, later.id > label_id)
    counts = counting(check_name, Label.content_sha256.in_(touched))
    query = (
        sa.select(sa.func.count())
        .select_from(counts)
        .join(LabelledImage, LabelledImage.content_sha256 == counts.c.content_sha256)
        .where(counts.c.place == 1, ~counts.c.disputed, counts.c.id > label_id)
        .where(split_for(check_name).in_(list(splits)), ~is_synthetic(check_name, counts.c.content_sha256))
    )
    return connection.execute(query).scalar_one()


def labelled_checks(connection: sa.Connection) -> list[str]:
    """Return the names of the checks with labels."""
    return list(connection.execute(sa.select(Label.check_name).distinct().order_by(Label.check_name)).scalars())


def add_labels(connection: sa.Connection, check_name: str, labels: Sequence[NewLabel]) -> list[int]:
    """Add labels in their order, leaving out repeats (see `without_repeats`). Returns the ids of the new rows."""
    at = now(connection)
    new = without_repeats(connection, check_name, labels)
    added: list[int] = []
    for start in range(0, len(new), CHUNK_ROWS):
        rows = [_row(label, check_name, at) for label in new[start : start + CHUNK_ROWS]]
        insert = sa.insert(Label).returning(Label.id, sort_by_parameter_order=True)
        added += connection.execute(insert, rows).scalars()
    return added


def without_repeats(connection: sa.Connection, check_name: str, labels: Sequence[NewLabel]) -> list[NewLabel]:
    """Return the labels that differ from the person's newest label of the image.

    So the same file may be imported twice.
    """
    given: dict[tuple[str, str], NewLabel] = {}  # by these labels
    new: list[NewLabel] = []
    for start in range(0, len(labels), CHUNK_ROWS):
        chunk = labels[start : start + CHUNK_ROWS]
        stored = _newest_by_person(connection, check_name, {label.content_sha256 for label in chunk})
        for label in chunk:
            key = (label.content_sha256, label.who)
            if not _covers(given.get(key, stored.get(key)), label):
                given[key] = label
                new.append(label)
    return new


def _row(label: NewLabel, check_name: str, at: datetime) -> dict[str, Any]:
    return {"check_name": check_name, "at": at} | {name: getattr(label, name) for name in NewLabel.__dataclass_fields__}


def _covers(earlier: Any, label: NewLabel) -> bool:
    """Return True if an earlier label, or its row, contains all of a new one. No boxes and none given are equal."""
    if earlier is None or (earlier.label, earlier.boxes or None) != (label.label, label.boxes or None):
        return False
    if label.attributes and earlier.attributes != label.attributes:
        return False
    return (earlier.settles or not label.settles) and (earlier.origin == PINNED or label.origin != PINNED)


def _newest_by_person(connection: sa.Connection, check_name: str, images: set[str]) -> dict[tuple[str, str], Any]:
    """Return (image, who) -> that person's newest label, without undone ones."""
    columns = (Label.content_sha256, Label.who, Label.label, Label.boxes, Label.settles, Label.origin, Label.attributes)
    query = (
        sa.select(*columns)
        .where(Label.check_name == check_name, Label.content_sha256.in_(images), Label.undoes.is_(None), ~undone(Label))
        .order_by(Label.id)
    )
    return {(row.content_sha256, row.who): row for row in connection.execute(query)}


def _next_images(connection: sa.Connection, check_name: str, after: str, limit: int) -> list[str]:
    """Return content hashes of labelled images after `after`, whether or not their labels count."""
    query = (
        sa.select(Label.content_sha256)
        .where(Label.check_name == check_name, Label.content_sha256 > after)
        .distinct()
        .order_by(Label.content_sha256)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _select_current(
    connection: sa.Connection, check_name: str, *conditions: sa.ColumnElement[bool], up_to: int | None
) -> list[CurrentLabel]:
    counts = counting(check_name, *conditions, up_to=up_to)
    given = ("check_name", "content_sha256", "label", "boxes", "who", "at", "drawn", "shown", "note", "attributes")
    found = ("root", "etag", "width", "height", "cluster")
    query = (
        sa.select(counts.c.id.label("label_id"), *(counts.c[name] for name in given))
        .add_columns(LabelledImage.uri, *(LabelledImage.__table__.c[name] for name in found))
        .add_columns(LabelledImage.given_group.label("group"), split_for(check_name).label("split"))
        .add_columns(is_synthetic(check_name, counts.c.content_sha256).label("synthetic"))
        .join(LabelledImage, LabelledImage.content_sha256 == counts.c.content_sha256)
        .where(counts.c.place == 1, ~counts.c.disputed)
        .order_by(counts.c.content_sha256)
    )
    return [CurrentLabel(**row._mapping) for row in connection.execute(query)]
