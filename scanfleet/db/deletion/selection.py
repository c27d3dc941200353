"""Which images are forgotten: by manifest columns, names, age and scan; all that are given must hold.

Images of rescans are not chosen: they go with the image that they renew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from scanfleet.db.results.answers import content_of
from scanfleet.db.scans.forgotten import EVERY
from scanfleet.db.tables import Batch, Image, LabelledImage, Scan, Verdict


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Unset fields match all. before: when the batch of the image was scored."""

    where: Mapping[str, str] = field(default_factory=dict)  # column of the manifest -> value, as text
    prefix: str | None = None  # of the uri
    uris: tuple[str, ...] = ()
    before: datetime | None = None
    scans: tuple[str, ...] = ()  # ids, none of a rescan

    @property
    def for_good(self) -> bool:
        """Whether no scan may take these names again; else those that held them may not."""
        return self.before is None and not self.scans

    @property
    def by_name(self) -> bool:
        """Whether the names alone decide, so that labels of images that no scan holds are meant, too."""
        return self.for_good and not self.where and (bool(self.uris) or self.prefix is not None)

    def remembered_for(self, scan_id: str) -> str:
        return EVERY if self.for_good else scan_id

    def images(self, dialect: str) -> list[sa.ColumnElement[bool]]:
        found = [Image.rescan_of.is_(None), *self._named(Image.uri)]
        found += [_has(name, value, dialect) for name, value in self.where.items()]
        if self.scans:
            found.append(Image.scan_id.in_(self.scans))
        if self.before is not None:
            found.append(Image.batch_id.in_(sa.select(Batch.id).where(Batch.finished_at < self.before)))
        return found

    def labelled(self, dialect: str) -> sa.ColumnElement[bool]:
        """Whether the bytes of a labelled image are those of a chosen one, or its name is chosen."""
        contents = sa.select(content_of()).outerjoin_from(Image, Verdict, Verdict.id == Image.verdict_id)
        same = LabelledImage.content_sha256.in_(contents.where(content_of().is_not(None), *self.images(dialect)))
        return sa.or_(same, sa.and_(*self._named(LabelledImage.uri))) if self.by_name else same

    def labelled_names(self) -> list[sa.ColumnElement[bool]]:
        return self._named(LabelledImage.uri)

    def _named(self, uri: Any) -> list[sa.ColumnElement[bool]]:
        found: list[sa.ColumnElement[bool]] = []
        if self.uris:
            found.append(uri.in_(self.uris))
        if self.prefix is not None:
            found.append(sa.func.substr(uri, 1, len(self.prefix)) == self.prefix)  # not LIKE: SQLite's ignores the case
        return found


def _has(name: str, value: str, dialect: str) -> sa.ColumnElement[bool]:
    """True where a column of the manifest reads like this: numbers and `true` as JSON writes them."""
    if dialect != "sqlite":
        return sa.cast(Image.meta[name].as_string(), sa.Text) == value
    # Not by a JSON path: SQLite compares that with a key as it is escaped, and finds no "größe".
    entry = sa.func.json_each(Image.meta).table_valued("key", "value", "type")
    truth = entry.c.type.in_(("true", "false"))
    text = sa.case((truth, entry.c.type), else_=sa.cast(entry.c.value, sa.Text))
    return sa.exists(sa.select(1).select_from(entry).where(entry.c.key == name, text == value))


def page_of(
    connection: sa.Connection, chosen: Selection, *, after: int, until: int, limit: int
) -> Sequence[sa.Row[Any]]:
    """Return the next chosen images by id: id, uri, scan_id."""
    query = sa.select(Image.id, Image.uri, Image.scan_id).where(*chosen.images(connection.dialect.name))
    return connection.execute(query.where(Image.id > after, Image.id <= until).order_by(Image.id).limit(limit)).all()


def count_by_scan(connection: sa.Connection, chosen: Selection) -> dict[str, int]:
    query = sa.select(Image.scan_id, sa.func.count().label("n")).where(*chosen.images(connection.dialect.name))
    return {row.scan_id: row.n for row in connection.execute(query.group_by(Image.scan_id).order_by(Image.scan_id))}


def newest_image(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.max(Image.id))).scalar_one() or 0


def wait_for_listings(connection: sa.Connection) -> None:
    """Return once no transaction is under way that began to add images before: each holds its scan."""
    held = sa.select(Scan.id).order_by(Scan.id).with_for_update(key_share=True)
    connection.execute(held).all()
