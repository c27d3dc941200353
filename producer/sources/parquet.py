"""Rows of a Parquet file: the column `uri` (or `source-ref`), and the others as values of JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import IO, Any

from producer.sources.manifest import SOURCE_REF, URI, BrokenFileError, MalformedLineError, Row
from scanfleet.config.extras import install_hint
from scanfleet.errors import MissingExtra

BATCH_ROWS = 4096


class ParquetRows:
    """Iterable once; `number` is that of the row just read. Memory is that of a row group's pages."""

    unit = "row"

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        self._file = file

    def __iter__(self) -> Iterator[Row | MalformedLineError]:
        """Raises BrokenFileError, MissingExtra."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingExtra(f"Parquet needs pyarrow: {install_hint('parquet')}") from None
        try:
            table = pq.ParquetFile(self._file)
            names = _columns(pa, table.schema_arrow)
            name = next((each for each in (URI, SOURCE_REF) if each in names), None)
            if name is None:
                raise BrokenFileError(f"no column `uri` (found: {', '.join(names)[:200] or 'nothing'})")
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=names):
                for row in batch.to_pylist():
                    self.number += 1
                    yield _row(row, name)
        except (pa.ArrowException, OSError) as error:
            raise BrokenFileError(f"not Parquet: {str(error).splitlines()[0]}") from None


def _columns(pa: Any, schema: Any) -> list[str]:
    """Return the columns that JSON can hold: bytes are no text."""
    return [field.name for field in schema if not _holds_bytes(pa, field.type)]


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(pa, kind.field(number).type) for number in range(kind.num_fields))


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
