"""The columns of a table of results: names, kinds, and how each is made of a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.checks.crop_result import FIELDS as CROP_FIELDS
from scanfleet.db.results.pages import iter_pages, manifest_fields
from scanfleet.db.results.results import ResultFilter
from scanfleet.errors import UnknownName
from scanfleet.producer.reports.exports.names import column_names
from scanfleet.producer.reports.exports.page import MetaColumn, Page, Values

MAX_META_COLUMNS = 200


@dataclass(frozen=True, kw_only=True)
class Column:
    """kind: word (one of few texts), text, integer, real, boolean, time (aware), boxes (objects), box (x0, y0, x1, y1),
    texts, object.

    sources: what it is made of, of `result_columns`. field: of the manifest, for the column of one.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    values: Callable[[Page], Values]
    field: str | None = None


def _plain(name: str, kind: str, source: str | None = None) -> Column:
    column = source or name
    return Column(name=name, kind=kind, sources=(column,), values=lambda page: page.raw[column])


def _json(name: str, kind: str) -> Column:
    return Column(name=name, kind=kind, sources=(name,), values=lambda page: page.parsed(name))


def _crop(name: str) -> Column:
    kinds = {"box": "box", "tokens": "integer"} | dict.fromkeys(("first", "second", "sharpness"), "real")
    kind = kinds.get(name, "word")
    return Column(name=f"crop_{name}", kind=kind, sources=("crop",), values=lambda page: _part(page, page.crop, name))


def _frame(name: str, kind: str, attribute: str) -> Column:
    return Column(name=name, kind=kind, sources=("frames",), values=lambda page: _part(page, page.frames, attribute))


def _explained(name: str, kind: str, attribute: str) -> Column:
    return Column(
        name=name, kind=kind, sources=("explanation",), values=lambda page: _part(page, page.explanation, attribute)
    )


def _part(page: Page, held: Values, attribute: str) -> Values:
    """Return an attribute of each record."""
    return held if held is page.nothing else [None if each is None else getattr(each, attribute) for each in held]


def _calibrated(page: Page) -> Values:
    rows = zip(page.raw["calibrated"], page.raw["scorer_id"], page.frames, strict=True)
    return [
        bool(held) and scorer is not None and (frames is None or frames.calibrated) for held, scorer, frames in rows
    ]


def _reused(page: Page) -> Values:
    return [source is not None for source in page.raw["reused_from"]]


def _notes(page: Page) -> Values:
    return [notes or None for notes in page.parsed("notes")]


FIXED = (
    _plain("image_id", "integer"),
    _plain("scan", "word", "scan_id"),
    _plain("check", "word"),
    _plain("model", "word"),
    _plain("uri", "text"),
    *(_plain(name, "word") for name in ("state", "label", "decision")),
    _plain("score", "real"),
    Column(
        name="calibrated", kind="boolean", sources=("calibrated", "scorer_id", "frames"), values=_calibrated
    ),
    *(_plain(name, "real") for name in ("margin", "mass")),
    _explained("explanation", "text", "text"),
    _explained("explanation_problem", "text", "problem"),
    _plain("unlike", "real"),
    _plain("doubted", "word"),
    Column(name="reused", kind="boolean", sources=("reused_from",), values=_reused),
    _plain("scored_at", "time"),
    _plain("content_sha256", "text"),
    *(_plain(name, "integer") for name in ("size", "width", "height")),
    _plain("scorer_id", "integer"),
    _plain("scorer_key", "word", "key"),
    _plain("scorer_base_model", "word", "base_model"),
    _plain("scorer_revision", "word", "base_revision"),
    _plain("scorer_precision", "word", "precision"),
    _plain("scorer_adapter", "word", "weights_sha256"),
    _plain("scorer_adapter_id", "integer", "adapter_id"),
    _plain("scorer_mode", "word", "mode"),
    *map(_crop, CROP_FIELDS),
    _plain("failure_stage", "word", "stage"),
    _plain("failure_reason", "word", "reason"),
    _plain("failure_detail", "text", "detail"),
    _json("boxes", "boxes"),
    _json("box_problems", "texts"),
    Column(name="meta", kind="object", sources=("meta",), values=lambda page: page.rest),
    _frame("n_frames", "integer", "n_frames"),
    _frame("n_scored", "integer", "n_scored"),
    _frame("frame", "integer", "frame"),
    _frame("frame_seconds", "real", "seconds"),
    Column(name="notes", kind="texts", sources=("notes",), values=_notes),
)  # fmt: skip
COLUMNS = tuple(column.name for column in FIXED)


def _of_manifest(meta: MetaColumn) -> Column:
    def values(page: Page) -> Values:
        found = page.meta[meta.field]
        if meta.kind == "text":
            return [as_text(value) for value in found]
        return [None if value is None else float(value) for value in found] if meta.kind == "real" else found

    return Column(name=meta.name, kind=meta.kind, sources=("meta",), values=values, field=meta.field)


def as_text(value: object) -> str | None:
    """Return a field of a manifest as text: text unchanged, anything else as JSON."""
    return value if value is None or isinstance(value, str) else dumps(value)


def as_cell(value: object) -> str | float | None:
    """Return a field of a manifest for CSV, which writes a number as JSON has it."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else as_text(value)


dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # one encoder: json.dumps makes one each time


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns of one export, and the manifests' fields among all columns that there are."""

    columns: tuple[Column, ...]
    fields: tuple[MetaColumn, ...]
    engine: sa.Engine
    wanted: ResultFilter
    limit: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def pages(self, more: Sequence[str] = ()) -> Iterator[Page]:
        """Yield all pages. more: columns to read beside those of the table, of `result_columns`."""
        sources = dict.fromkeys([*more, *(source for column in self.columns for source in column.sources)])
        for raw in iter_pages(self.engine, self.wanted, names=tuple(sources), limit=self.limit):
            yield Page(raw, self.fields)


def open_table(
    engine: sa.Engine,
    wanted: ResultFilter,
    *,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    dotted: bool = False,
) -> Table:
    """Find the columns of a table before its rows: the fixed ones, then one for each field of the manifests.

    The fields of all its rows are asked for, unless no column is about them. columns: only these, in this order.
    dotted: as in `column_names`. Raises UnknownName.
    """
    with_meta = columns is None or any(name.startswith("meta") for name in columns)
    fields = manifest_fields(engine, wanted, limit=limit, most=MAX_META_COLUMNS) if with_meta else []
    names = column_names((field.name for field in fields), COLUMNS, dotted=dotted)
    metas = tuple(MetaColumn.of(field, names[field.name]) for field in fields)
    found = {column.name: column for column in (*FIXED, *map(_of_manifest, metas))}
    return Table(columns=_chosen(found, columns), fields=metas, engine=engine, wanted=wanted, limit=limit)


def _chosen(found: Mapping[str, Column], names: Sequence[str] | None) -> tuple[Column, ...]:
    if names is None:
        return tuple(found.values())
    for name in names:
        if name not in found:
            raise UnknownName(f"no column {name}: there are {', '.join(found)}")
    return tuple(found[name] for name in dict.fromkeys(names))
