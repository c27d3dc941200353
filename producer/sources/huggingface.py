"""A Hugging Face dataset on disk (`save_to_disk`): Arrow files with columns of images. It needs pyarrow alone.

An embedded image is addressed by column and row, and its version holds the place of its bytes in the file: workers read
them as a member of a tar. https://huggingface.co/docs/datasets/about_arrow
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanfleet.config.extras import install_hint
from scanfleet.config.validation import printable
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import AccessDenied, BadSource, MissingExtra, SourceNotFound
from scanfleet.producer.sources.base import Candidate, LeftOut, Skip, local_image
from scanfleet.producer.sources.manifest import MalformedLineError, check_storable
from scanfleet.producer.sources.parquet import holds_bytes, plain, rows_of
from scanfleet.storage.file_uri import file_etag, path_to_uri
from scanfleet.storage.shards.member_uri import Place, member_uri, version_of

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
INDICES = ("_indices_files", "_indices_data_files")  # of old versions


def is_dataset(folder: Path) -> bool:
    there = {name for name in (SPLITS, STATE, INFO) if os.path.isfile(folder / name)}  # false where it is forbidden
    return SPLITS in there or {STATE, INFO} <= there


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """images: the columns to scan. names: of the values of a column with classes. others: kept with each image."""

    images: tuple[str, ...]
    names: dict[str, list[str]]
    others: tuple[str, ...]


class DatasetSource:
    """Every image of a dataset, or of all its splits. Paths are `split/file.arrow/column/row`."""

    sifts_by_suffix = False
    resumable = False
    top = ""

    def __init__(self, folder: Path) -> None:
        self.root = os.path.realpath(folder)
        self.name = path_to_uri(os.fsencode(self.root))

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        top = Path(self.root)
        splits = [top]
        if (top / SPLITS).is_file():
            named = _json(top / SPLITS).get("splits")
            splits = [top / _plain_name(name, top) for name in (named if isinstance(named, list) else [named])]
        for split in splits:
            state = _json(split / STATE)
            if any(state.get(name) for name in INDICES):
                raise BadSource(f"{split} is a selection by indices: call flatten_indices() and save it again")
            files = state.get("_data_files")
            for each in files if isinstance(files, list) else []:
                name = _plain_name(each.get("filename") if isinstance(each, dict) else None, split)
                yield from self._file(split / name, _json(split / INFO))

    def _file(self, path: Path, info: dict[str, Any]) -> Iterator[Candidate | LeftOut]:
        shard = path_to_uri(os.fsencode(path))
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtra(f"datasets of Hugging Face need pyarrow: {install_hint('parquet')}") from None
        try:
            yield from self._rows(pa, path, shard, info)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield LeftOut(where=shard, why=f"the rest is not read: {printable(str(error).splitlines()[0])}")

    def _rows(self, pa: Any, path: Path, shard: str, info: dict[str, Any]) -> Iterator[Candidate | LeftOut]:
        with path.open("rb") as file, pa.memory_map(os.fspath(path)) as mapped:
            etag = file_etag(os.fstat(file.fileno()))
            whole = mapped.read_buffer()
            reader = pa.ipc.open_stream(pa.BufferReader(whole))
            if len(set(reader.schema.names)) != len(reader.schema.names):
                raise ValueError("two columns have the same name")
            columns = _columns_of(reader.schema, info)
            if not columns.images:
                raise ValueError("no column of images")
            first = 0
            for batch in reader:
                batch.validate(full=True)
                others = rows_of(batch.select(list(columns.others)))
                for name in columns.images:
                    cells = _cells(batch.column(name), whole)
                    for row, (cell, meta) in enumerate(zip(cells, others, strict=True)):
                        where = member_uri(shard, f"{name}/{first + row}")
                        try:
                            if isinstance(meta, MalformedLineError):
                                raise meta
                            check_storable(where, kept := _meta(meta, columns))
                            yield self._item(cell, where, etag, kept)
                        except MalformedLineError as error:
                            yield LeftOut(where=where, why=printable(str(error)))
                first += batch.num_rows

    def _item(self, cell: Place | str | None, uri: str, etag: str, meta: dict[str, Any] | None) -> Candidate | LeftOut:
        if isinstance(cell, Place):
            image = NewImage(uri=uri, root=self.root, etag=version_of(etag, cell), size=cell.size, meta=meta)
            path = uri.replace("#", "/").removeprefix(f"{self.name}/")
            return Candidate(image=image, path=path)
        if cell is None:
            return LeftOut(where=uri, why="an empty cell")
        if not isinstance(cell, str) or not os.path.isabs(cell) or "\0" in cell:
            return LeftOut(where=uri, why=f"no bytes, and the path {printable(str(cell))[:200]!r} is not absolute")
        folder = os.path.dirname(os.path.normpath(cell))
        return Candidate(image=local_image(os.fsencode(os.path.normpath(cell)), root=folder, meta=meta), path=cell)


def _cells(column: Any, whole: Any) -> Iterator[Place | str | None]:
    """Yield where the bytes of each image lie in the file, else its path. Raises ValueError."""
    binary, paths = column.field("bytes"), column.field("path")
    if "view" in str(binary.type):
        raise ValueError("its bytes are views, whose place is not read: save it with an earlier type")
    _, offsets, data = binary.buffers()
    width = 8 if "large" in str(binary.type) else 4
    # Uncompressed data are not copied: the buffer is a part of the file.
    start = data.address - whole.address if data is not None and data.size else 0
    if not 0 <= start <= whole.size - (0 if data is None else data.size):
        raise ValueError("its data are compressed: save it without compression")
    ends = memoryview(offsets).cast("q" if width == 8 else "i")[binary.offset :] if offsets is not None else []
    for row in range(len(binary)):
        if column[row].is_valid and binary[row].is_valid:
            yield Place(start + ends[row], ends[row + 1] - ends[row])
        else:
            yield paths[row].as_py() if column[row].is_valid else None


def _columns_of(schema: Any, info: dict[str, Any]) -> _Columns:
    """Return what the features of a dataset say of its columns; images are structs of bytes and path."""
    features = info.get("features")
    features = features if isinstance(features, dict) else {}
    kinds = {name: each for name, each in features.items() if isinstance(each, dict)}
    images = tuple(
        name
        for name in schema.names
        if kinds.get(name, {}).get("_type") == "Image"
        and {schema.field(name).type.field(at).name for at in range(schema.field(name).type.num_fields)}
        == {"bytes", "path"}
    )
    names = {
        name: each["names"]
        for name, each in kinds.items()
        if each.get("_type") == "ClassLabel" and isinstance(each.get("names"), list)
    }
    others = tuple(name for name in schema.names if name not in images and not holds_bytes(schema.field(name).type))
    return _Columns(images=images, names=names, others=others)


def _meta(row: dict[str, Any], columns: _Columns) -> dict[str, Any] | None:
    """Return the other columns as JSON, classes by name."""
    found = {}
    for column, value in row.items():
        names = columns.names.get(column, [])
        is_class = isinstance(value, int) and 0 <= value < len(names)
        found[column] = names[value] if is_class else plain(value)
    return found or None


def _plain_name(name: Any, folder: Path) -> str:
    """Raises BadSource for a name that leads out of the folder."""
    if not isinstance(name, str) or not name or name in (".", "..") or "/" in name or "\0" in name:
        raise BadSource(f"{folder} is no dataset as save_to_disk writes it: it names the file {str(name)[:60]!r}")
    return name


def _json(path: Path) -> dict[str, Any]:
    """Raises SourceNotFound, AccessDenied, BadSource."""
    try:
        found = json.loads(path.read_bytes())
    except PermissionError:
        raise AccessDenied(f"no permission to read {path}") from None
    except OSError as error:
        raise SourceNotFound(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BadSource(f"{path} is not JSON: save the dataset again") from None
    if not isinstance(found, dict):
        raise BadSource(f"{path} is not an object: save the dataset again")
    return found
