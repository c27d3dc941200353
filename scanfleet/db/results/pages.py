"""Results for exports: pages of raw columns, read ahead, and the fields that their manifests have.

A page is a few thousand images, and two are in memory at a time. Each is a short read of its own: a long export neither
blocks a writer nor keeps old rows from being cleared away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from scanfleet.db.engine import reading
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import result_columns, select_results
from scanfleet.db.tables import Image

PAGE_IMAGES = 5000
Columns = dict[str, Sequence[Any]]  # values by name, one for each image of the page


def iter_pages(
    engine: sa.Engine,
    wanted: ResultFilter,
    *,
    names: Sequence[str] | None = None,
    limit: int | None = None,
    page_images: int = PAGE_IMAGES,
) -> Iterator[Columns]:
    """Yield the results as `iter_results` does, as columns. JSON is text, `image_id` is always there.

    names: of `result_columns`; None: all. The next page is read while the caller works on this one.
    """
    known = result_columns(wanted)
    chosen = {"image_id": known["image_id"]} | {name: known[name] for name in names or known}
    query = select_results(wanted, map(_plain, chosen.values())).order_by(Image.id)

    def read(after: int, size: int) -> Columns:
        with reading(engine, long=True) as connection:
            _plan_simply(connection, "max_parallel_workers_per_gather = 0", "jit = off")
            cursor = connection.execute(query.where(Image.id > after).limit(size)).cursor
            assert cursor is not None
            rows = cursor.fetchall()  # tuples of the driver: SQLAlchemy's rows take a third of the time of a page
            codes = [each[1] for each in cursor.description]
        values = (
            _python(each, column, engine.dialect, code)
            for each, column, code in zip(zip(*rows, strict=True), chosen.values(), codes, strict=True)
        )
        return dict(zip(chosen, values, strict=True)) if rows else {}

    def size_after(n_read: int) -> int:
        return page_images if limit is None else min(page_images, limit - n_read)

    with ThreadPoolExecutor(1, thread_name_prefix="pages") as thread:
        n_read, coming = 0, thread.submit(read, 0, size_after(0))
        while page := coming.result():
            full = len(page["image_id"]) == size_after(n_read)
            n_read += len(page["image_id"])
            more = full and size_after(n_read) > 0
            if more:
                coming = thread.submit(read, page["image_id"][-1], size_after(n_read))
            yield page
            if not more:
                return


def _plan_simply(connection: sa.Connection, *settings: str) -> None:
    """Keep PostgreSQL from compiling a query, or starting helpers for it: either takes longer than the query."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("; ".join(f"SET LOCAL {setting}" for setting in settings))


def _python(values: Sequence[Any], column: sa.ColumnElement[Any], dialect: sa.Dialect, code: Any) -> Sequence[Any]:
    """Return the driver's values as those of the column's type."""
    kind = sa.Text() if isinstance(column.type, sa.JSON) else column.type  # as `_plain` has it
    process = kind.dialect_impl(dialect).result_processor(dialect, code)
    return values if process is None else [process(value) for value in values]


def _plain(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return JSON as its text: whoever needs its values reads it, most rows have none."""
    return sa.cast(column, sa.Text).label(column.key) if isinstance(column.type, sa.JSON) else column


KINDS = ("text", "boolean", "integer", "long", "real", "other")
EXACT_IN_REAL = 2**53  # whole numbers beyond have no exact double
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, kw_only=True)
class ManifestField:
    """A field of manifests. kinds: those of KINDS that its values have; nulls have none.

    long: whole numbers that only int64 holds exactly. other: lists, objects, and whole numbers beyond int64.
    """

    name: str
    kinds: frozenset[str]


def manifest_fields(
    engine: sa.Engine, wanted: ResultFilter, *, limit: int | None = None, most: int
) -> list[ManifestField]:
    """Return the fields of the results' manifests, by name; of more than `most` those that most images have.

    One pass in the database, which returns one row for each field.
    """
    images = select_results(wanted, (Image.meta.label("meta"),)).where(Image.meta.is_not(None))
    if limit is not None:
        images = images.order_by(Image.id).limit(limit)
    given = images.subquery("found")
    name, kind, each = _of_postgresql(given.c.meta) if engine.dialect.name == "postgresql" else _of_sqlite(given.c.meta)
    pairs = sa.select(name.label("name"), kind.label("kind"), sa.func.count().label("n"))
    pair = pairs.select_from(given.join(each, sa.true())).group_by("name", "kind").subquery("pair")
    flags = [sa.func.max(sa.case((pair.c.kind == one, 1), else_=0)) for one in KINDS]
    query = sa.select(pair.c.name, *flags).group_by(pair.c.name)
    with reading(engine, long=True) as connection:
        _plan_simply(connection, "jit = off")
        rows = connection.execute(query.order_by(sa.func.sum(pair.c.n).desc(), pair.c.name).limit(most)).all()
    found = [
        ManifestField(name=name, kinds=frozenset(kind for kind, seen in zip(KINDS, flags, strict=True) if seen))
        for name, *flags in rows
    ]
    return sorted(found, key=lambda field: field.name)


Pairs = tuple[sa.ColumnElement[Any], sa.ColumnElement[Any], sa.TableValuedAlias]  # name, kind, where they come from


def _of_postgresql(meta: sa.ColumnElement[Any]) -> Pairs:
    # As JSON, jsonb or not: it gives a number as it was written.
    each = sa.func.json_each(sa.cast(meta, postgresql.JSON)).table_valued("key", "value", name="field")
    text = sa.cast(each.c.value, sa.Text)
    number = sa.case(
        (sa.func.translate(text, "-0123456789", "") != "", "real"),
        (sa.func.length(text) < len(str(EXACT_IN_REAL)), "integer"),
        else_=_whole(sa.cast(text, sa.Numeric)),
    )
    kinds = {"string": "text", "boolean": "boolean", "number": number, "array": "other", "object": "other"}
    # "C": by code point, whatever the collation of the database.
    return sa.collate(each.c.key, "C"), sa.case(kinds, value=sa.func.json_typeof(each.c.value)), each


def _of_sqlite(meta: sa.ColumnElement[Any]) -> Pairs:
    # A whole number beyond int64 is a real one here.
    each = sa.func.json_each(meta).table_valued("key", "atom", "type", name="field")
    kinds = {"text": "text", "true": "boolean", "false": "boolean", "integer": _whole(each.c.atom), "real": "real"}
    return each.c.key, sa.case({**kinds, "array": "other", "object": "other"}, value=each.c.type), each


def _whole(number: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    return sa.case(
        (number.between(-EXACT_IN_REAL, EXACT_IN_REAL), "integer"),
        (number.between(INT64.start, INT64.stop - 1), "long"),
        else_="other",
    )
