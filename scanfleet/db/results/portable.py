"""SQL that SQLite and PostgreSQL write differently: fields of a manifest, and uris by their start and order."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from scanfleet.db.tables import Image

NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,15})?")
_LAST = 0x10FFFF  # code point
_SURROGATES = range(0xD800, 0xE000)  # no text of a database holds one


class meta_text(FunctionElement[str]):  # noqa: N801 - used like a function
    """A field of `Image.meta` as text; null where it is missing or null. Booleans are true and false."""

    inherit_cache = True
    type = sa.Text()

    def __init__(self, key: str) -> None:
        super().__init__(Image.meta, sa.literal(key))


class meta_number(FunctionElement[Any]):  # noqa: N801
    """A field of `Image.meta` where it is a number; else null."""

    inherit_cache = True
    type = sa.Numeric(asdecimal=False)

    def __init__(self, key: str) -> None:
        super().__init__(Image.meta, sa.literal(key))


class _Comparison(FunctionElement[bool]):
    type = sa.Boolean()

    def self_group(self, against: Any = None) -> Any:
        """SQLAlchemy would add `= 1` for SQLite, and no index serves that."""
        return self


class _at_least(_Comparison):  # noqa: N801
    inherit_cache = True


class _below(_Comparison):  # noqa: N801
    inherit_cache = True


class by_bytes(FunctionElement[str]):  # noqa: N801
    """A text to order by, the same on both databases, whatever the collation."""

    inherit_cache = True
    type = sa.Text()


def starts_with(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """True where a text starts with `prefix`: a range, which an index serves, and which cares for case."""
    end = successor(prefix)
    start = _at_least(column, sa.literal(prefix))
    return start if end is None else sa.and_(start, _below(column, sa.literal(end)))


def successor(prefix: str) -> str | None:
    """Return the least text that is greater than all that start with `prefix`; None: there is none.

    >>> successor("s3://ads/"), successor("a\U0010ffff"), successor("")
    ('s3://ads0', 'b', None)
    """
    kept = prefix.rstrip(chr(_LAST))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)


def meta_is(key: str, value: str) -> sa.ColumnElement[bool]:
    """True where a field of the manifest has this value, as people type it.

    Texts are equal letter by letter; a JSON number equals 3, 3.0 and 3.00; a JSON boolean, true and True. An empty
    value stands for an empty or missing field.
    """
    text = meta_text(key)
    if not value:
        return sa.or_(text.is_(None), text == "")
    found = [text == value]
    if value.lower() in ("true", "false") and value != value.lower():
        found.append(text == value.lower())
    if NUMBER.fullmatch(value):
        found.append(meta_number(key) == sa.literal(float(value) if "." in value else int(value)))
    return sa.or_(*found)


def _arguments(element: FunctionElement[Any], compiler: Any, options: dict[str, Any]) -> list[str]:
    return [compiler.process(each, **options) for each in element.clauses]


# json_each, not json_extract: its paths know no key with a quote, and do not find one that JSON escapes.
@compiles(meta_text, "sqlite")
def _(element: meta_text, compiler: Any, **options: Any) -> str:
    meta, key = _arguments(element, compiler, options)
    value = "CASE type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE CAST(value AS TEXT) END"
    return f'(SELECT {value} FROM json_each({meta}) WHERE "key" = {key})'  # noqa: S608


@compiles(meta_text, "postgresql")
def _(element: meta_text, compiler: Any, **options: Any) -> str:
    meta, key = _arguments(element, compiler, options)
    return f"({meta} ->> CAST({key} AS TEXT))"


@compiles(meta_number, "sqlite")
def _(element: meta_number, compiler: Any, **options: Any) -> str:
    meta, key = _arguments(element, compiler, options)
    return f"(SELECT value FROM json_each({meta}) WHERE \"key\" = {key} AND type IN ('integer', 'real'))"  # noqa: S608


@compiles(meta_number, "postgresql")
def _(element: meta_number, compiler: Any, **options: Any) -> str:
    meta, key = _arguments(element, compiler, options)
    kind, text = f"jsonb_typeof(CAST({meta} -> {key} AS JSONB))", f"({meta} ->> CAST({key} AS TEXT))"
    return f"(CASE WHEN {kind} = 'number' THEN CAST({text} AS NUMERIC) END)"


# The operators of an index with text_pattern_ops, which compare bytes. SQLite compares bytes as it is.
@compiles(_at_least, "sqlite")
def _(element: _at_least, compiler: Any, **options: Any) -> str:
    return " >= ".join(_arguments(element, compiler, options))


@compiles(_at_least, "postgresql")
def _(element: _at_least, compiler: Any, **options: Any) -> str:
    return " ~>=~ ".join(_arguments(element, compiler, options))


@compiles(_below, "sqlite")
def _(element: _below, compiler: Any, **options: Any) -> str:
    return " < ".join(_arguments(element, compiler, options))


@compiles(_below, "postgresql")
def _(element: _below, compiler: Any, **options: Any) -> str:
    return " ~<~ ".join(_arguments(element, compiler, options))


@compiles(by_bytes, "sqlite")
def _(element: by_bytes, compiler: Any, **options: Any) -> str:
    return _arguments(element, compiler, options)[0]


@compiles(by_bytes, "postgresql")
def _(element: by_bytes, compiler: Any, **options: Any) -> str:
    return f'{_arguments(element, compiler, options)[0]} COLLATE "C"'
