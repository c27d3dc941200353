"""SQL for the part of an archive that an image belongs to: its source, or a folder some levels below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa

from scanfleet.db.tables import Image

By = Literal["source"] | int  # levels of folders below the source
MAX_DEPTH = 5  # the expression doubles with each level
MAX_NAMED = 50  # sources of a scan with a name of their own; the others are one
OTHER = "other"

Text = sa.ColumnElement[str]


def part_of(connection: sa.Connection, sources: Sequence[str], by: By) -> Text:
    """Return the source, or the folder with its final "/", that contains `Image.uri`.

    Images of a manifest are in no source: their folders count from the root or bucket, and a manifest among several
    sources is OTHER. A prefix of a bucket that is no folder (s3://b/2026/ad) counts from its folder.
    """
    named = list(sources)[:MAX_NAMED]
    if by == "source":
        others = sa.literal(sources[0] if len(sources) == 1 else OTHER)
        return _by_source([(_within(source), sa.literal(source)) for source in named], others)
    below = [(_within(source), sa.func.substr(Image.uri, len(_folder(source)) + 1)) for source in named]
    rest = _by_source(below, _after(connection, Image.uri, "://"))
    for _ in range(by):
        rest = _after(connection, rest, "/")
    return sa.func.substr(Image.uri, 1, sa.func.length(Image.uri) - sa.func.length(rest))


def _by_source(cases: Sequence[tuple[sa.ColumnElement[bool], Any]], rest: Text) -> Text:
    return sa.case(*cases, else_=rest) if cases else rest


def _within(source: str) -> sa.ColumnElement[bool]:
    start = source if source.startswith("s3://") else f"{source.rstrip('/')}/"
    # Not LIKE: SQLite's ignores the case.
    return sa.or_(sa.func.substr(Image.uri, 1, len(start)) == start, Image.uri == source)


def _folder(source: str) -> str:
    """Return the prefix below which the levels of a source begin, with the "/"."""
    return source[: source.rfind("/") + 1] if source.startswith("s3://") else f"{source.rstrip('/')}/"


def _after(connection: sa.Connection, text: Any, mark: str) -> Text:
    """Return the text after the first `mark`; all of it where there is none."""
    find = sa.func.strpos if connection.dialect.name == "postgresql" else sa.func.instr
    place = find(text, mark)
    return sa.case((place > 0, sa.func.substr(text, place + len(mark))), else_=text)
