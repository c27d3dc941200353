"""Arrow and Parquet with types: times, numbers, booleans, lists of structures, words as dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from scanfleet.config.extras import install_hint
from scanfleet.errors import MissingExtra
from scanfleet.producer.reports.exports.columns import Column, Table, dumps
from scanfleet.producer.reports.exports.page import Page, Values

ROW_GROUP = 50_000  # rows
SIDES = ("x0", "y0", "x1", "y1")
FIELD_NAME = b"manifest_field"  # in the metadata of a column: the name of the field in the manifest


def write_parquet(table: Table, file: IO[bytes]) -> int:
    """Write all rows and return their number. Raises MissingExtra."""
    form = Arrow(table)
    n = 0
    with form.writer(file) as writer:
        for group in form.groups(map(form.batch, table.pages())):
            writer.write_table(group)
            n += group.num_rows
    return n


def read_arrow(table: Table) -> Any:
    """Return all rows as a table of Arrow, with the schema that `write_parquet` writes. Raises MissingExtra."""
    form = Arrow(table)
    return form.joined(map(form.batch, table.pages()))


class Arrow:
    """The schema of a table, and its pages as batches of Arrow."""

    def __init__(self, table: Table) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingExtra(f"Arrow and Parquet need pyarrow: {install_hint('parquet')}") from None
        self._pa, self._pq, self._columns = pa, pq, table.columns
        box = [*((side, pa.float64()) for side in SIDES), ("label", pa.string()), ("score", pa.float64())]
        types = {
            "word": pa.dictionary(pa.int32(), pa.string()),
            "text": pa.string(),
            "object": pa.string(),
            "integer": pa.int64(),
            "real": pa.float64(),
            "boolean": pa.bool_(),
            "time": pa.timestamp("us", tz="UTC"),
            "texts": pa.list_(pa.string()),
            "boxes": pa.list_(pa.struct(box)),
            "box": pa.struct([(side, pa.int64()) for side in SIDES]),
        }
        self.schema = pa.schema(pa.field(one.name, types[one.kind], metadata=_metadata(one)) for one in table.columns)

    def writer(self, file: IO[bytes] | str) -> Any:
        return self._pq.ParquetWriter(file, self.schema)

    def batch(self, page: Page) -> Any:
        """Return a page as a table of Arrow."""
        arrays = [self._array(column, page) for column in self._columns]
        return self._pa.Table.from_arrays(arrays, schema=self.schema)

    def _array(self, column: Column, page: Page) -> Any:
        values, kind = column.values(page), column.kind
        if kind == "word":
            return self._pa.array(values, self._pa.string()).dictionary_encode()
        if kind in _LIKE:
            values = _LIKE[kind](values)
        return self._pa.array(values, self.schema.field(column.name).type)

    def joined(self, batches: Iterable[Any]) -> Any:
        """Return one table, whose words have one dictionary."""
        return self._pa.concat_tables([self.schema.empty_table(), *batches]).unify_dictionaries()

    def groups(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Join batches to row groups."""
        held: list[Any] = []
        for batch in batches:
            held.append(batch)
            if sum(each.num_rows for each in held) >= ROW_GROUP:
                yield self._pa.concat_tables(held)
                held = []
        if held:
            yield self._pa.concat_tables(held)


def _metadata(column: Column) -> dict[bytes, bytes] | None:
    return None if column.field is None else {FIELD_NAME: column.field.encode()}


def _boxes(values: Values) -> Values:
    return [None if sides is None else dict(zip(SIDES, sides, strict=True)) for sides in values]


def _texts(values: Values) -> Values:
    return [
        None if texts is None else [text if isinstance(text, str) else dumps(text) for text in texts]
        for texts in values
    ]


def _objects(values: Values) -> Values:
    return [None if value is None else dumps(value) for value in values]


_LIKE: dict[str, Callable[[Values], Values]] = {"box": _boxes, "texts": _texts, "object": _objects}
