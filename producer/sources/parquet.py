"""Rows of a Parquet file: the column `uri` (or `source-ref`), and the others as values of JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from typing import IO, Any

from scanfleet.config.extras import install_hint
from scanfleet.errors import MissingExtra
from scanfleet.producer.sources.manifest import SOURCE_REF, URI, BrokenFileError, MalformedLineError, Row

BATCH_ROWS = 4096


class ParquetRows:
    """Iterable once; `number` is that of the row just read. Memory is that of a row group's pages."""

    unit = "row"

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        self._file = file

    def __iter__(self) -> Iterator[Row | MalformedLineError]:
        """Raises BrokenFileError, MissingExtra."""
        for names, rows in batches_of(self._file, _columns):
            name = next((each for each in (URI, SOURCE_REF) if each in names), None)
            if name is None:
                raise BrokenFileError(f"no column `uri` (found: {', '.join(names)[:200] or 'nothing'})")
            if len(set(names)) != len(names):
                raise BrokenFileError("two columns have the same name")
            for row in rows:
                self.number += 1
                yield row if isinstance(row, MalformedLineError) else _row(row, name)


def batches_of(
    file: IO[bytes], choose: Callable[[Any], list[str]]
) -> Iterator[tuple[list[str], list[dict[str, Any] | MalformedLineError]]]:
    """Yield the chosen columns of an Arrow schema, and some rows of them, odd ones as errors; at first no row.

    Raises BrokenFileError, MissingExtra.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra(f"Parquet needs pyarrow: {install_hint('parquet')}") from None
    try:
        table = pq.ParquetFile(file)
        names = choose(table.schema_arrow)
        yield names, []
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=names):
            yield names, rows_of(batch)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFileError(f"not Parquet: {str(error).splitlines()[0]}") from None


def rows_of(batch: Any) -> list[dict[str, Any] | MalformedLineError]:
    """Return the rows of a batch of Arrow. Times beyond those of Python become text; what is no value is an odd row."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):
        return [_values(batch, number) for number in range(batch.num_rows)]


def _values(batch: Any, number: int) -> dict[str, Any] | MalformedLineError:
    try:
        return {name: _value(column[number]) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except (ValueError, OverflowError, NotImplementedError) as error:
        return MalformedLineError(f"a value cannot be read: {str(error).splitlines()[0][:200]}")


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):  # nanoseconds, or a year beyond 9999: as isoformat, which pandas' times have
        return str(cell.cast("string")).replace(" ", "T", 1).replace("Z", "+00:00")


def _columns(schema: Any) -> list[str]:
    return [field.name for field in schema if not holds_bytes(field.type)]


def holds_bytes(kind: Any) -> bool:
    """Return True for a type of Arrow that JSON cannot hold."""
    if kind.num_fields:
        return any(holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return "binary" in str(kind)


def _row(row: dict[str, Any], name: str) -> Row | MalformedLineError:
    uri = row.pop(name)
    if not isinstance(uri, str):
        return MalformedLineError(f"the column `{name}` holds no text")
    return uri, {key: plain(value) for key, value in row.items()} or None


def plain(value: Any) -> Any:
    """Return a value of Arrow as one of JSON: times and decimals as text, NaN (a missing number) as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case date() | datetime() | time():
            return value.isoformat()
    return str(value)
