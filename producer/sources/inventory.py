"""S3 Inventory: the objects of a bucket by its `manifest.json`, with CSV or Parquet parts, without a listing.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any
from urllib.parse import unquote_plus

from scanfleet.config.validation import printable
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadManifest
from scanfleet.producer.sources.base import Candidate, LeftOut, Skip
from scanfleet.producer.sources.inventory_files import Files
from scanfleet.producer.sources.manifest import Lines, MalformedLineError, check_storable, fields_of, resumed
from scanfleet.producer.sources.parquet import batches_of

ARN = "arn:aws:s3:::"
# By the names that CSV parts have, those of Parquet parts.
COLUMNS = {
    "Bucket": "bucket",
    "Key": "key",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "ETag": "e_tag",
}

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """A manifest.json. schema: the columns of CSV parts. parts: key and MD5 of each."""

    bucket: str
    destination: str
    form: str
    schema: tuple[str, ...]
    parts: tuple[tuple[str, str | None], ...]


class InventorySource:
    """The current objects of a bucket. Earlier versions, delete markers and markers of folders are no images."""

    sifts_by_suffix = True
    resumable = False
    root = None

    def __init__(self, name: str, files: Files) -> None:
        self.name = name
        self._files = files

    @property
    def top(self) -> str:
        return f"s3://{self._inventory.bucket}/"

    @cached_property
    def _inventory(self) -> Inventory:
        try:
            return _parse(self._files.manifest())
        except (ValueError, RecursionError) as error:
            raise BadManifest(f"{self.name} is no manifest.json of S3 Inventory: {printable(str(error))}") from None

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        for key, md5 in self._inventory.parts:
            where = f"{self.name}, part {printable(key)}"
            with self._files.part(key, destination=self._inventory.destination, md5=md5) as file:
                try:
                    yield from self._read(file, key, where)
                except (MalformedLineError, EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise BadManifest(f"{where}: {printable(str(error))}") from None

    def _read(self, file: IO[bytes], key: str, where: str) -> Iterator[Candidate | LeftOut]:
        if self._inventory.form == "Parquet":
            rows: Iterator[Entry | MalformedLineError] = _parquet_entries(file)
        else:
            lines = Lines(gzip.GzipFile(fileobj=file) if key.lower().endswith(".gz") else file)  # type: ignore[arg-type]
            rows = _csv_entries(lines, self._inventory.schema)
        for number, entry in enumerate(rows, start=1):
            try:
                if isinstance(entry, MalformedLineError):
                    raise entry
                image = _image(entry)
            except MalformedLineError as error:
                yield LeftOut(where=f"{where}, row {number}", why=printable(str(error)))
                continue
            if image is not None:
                yield Candidate(image=image, path=image.uri.removeprefix(self.top))


def _parse(data: bytes) -> Inventory:
    """Raises ValueError, which says what is wrong; BadManifest for ORC."""
    found = json.loads(data)
    if not isinstance(found, dict) or not isinstance(found.get("files"), list) or "fileFormat" not in found:
        raise ValueError("it lacks `fileFormat` and `files`")
    form = str(found["fileFormat"])
    if form == "ORC":
        raise BadManifest("an S3 Inventory in ORC cannot be read: configure the inventory as CSV or Parquet")
    if form not in ("CSV", "Parquet"):
        raise ValueError(f"the format {form[:20]!r} is not known")
    schema = tuple(name.strip() for name in str(found.get("fileSchema", "")).split(","))
    if form == "CSV" and not {"Bucket", "Key"} <= set(schema):
        raise ValueError("`fileSchema` lacks Bucket and Key")
    parts = [part for part in found["files"] if isinstance(part, dict) and isinstance(part.get("key"), str)]
    if len(parts) != len(found["files"]):
        raise ValueError("a part of `files` has no key")
    if any(not isinstance(part.get("MD5checksum", ""), str) for part in parts):
        raise ValueError("an MD5checksum is no text")
    return Inventory(
        bucket=str(found.get("sourceBucket", "")),
        destination=str(found.get("destinationBucket", "")).removeprefix(ARN),
        form=form,
        schema=schema,
        parts=tuple((part["key"], part.get("MD5checksum")) for part in parts),
    )


def _csv_entries(lines: Lines, schema: tuple[str, ...]) -> Iterator[Entry | MalformedLineError]:
    wanted = [(COLUMNS[name], at) for at, name in enumerate(schema) if name in COLUMNS]

    def rows() -> Iterator[Entry]:
        for fields in fields_of(lines, ","):
            if len(fields) != len(schema):
                raise MalformedLineError(f"{len(fields)} fields where the schema has {len(schema)}")
            entry: Entry = {name: fields[at] for name, at in wanted}
            try:
                entry["key"] = unquote_plus(entry["key"], errors="strict")
            except UnicodeDecodeError:
                raise MalformedLineError("the key is not UTF-8") from None
            yield entry

    return resumed(rows)


def _parquet_entries(file: IO[bytes]) -> Iterator[Entry | MalformedLineError]:
    """Their keys are not encoded."""
    for _, rows in batches_of(file, lambda schema: [name for name in COLUMNS.values() if name in schema.names]):
        yield from rows


def _image(entry: Entry) -> NewImage | None:
    """Return None for what is no current object. Raises MalformedLineError."""
    bucket, key, size = entry.get("bucket"), entry.get("key"), entry.get("size")
    if not bucket or not key:
        raise MalformedLineError("no bucket or no key")
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise MalformedLineError("bucket or key is no text")
    is_old = str(entry.get("is_latest") if entry.get("is_latest") is not None else "true").lower() == "false"
    if is_old or str(entry.get("is_delete_marker")).lower() == "true" or key.endswith("/"):
        return None
    uri, etag = f"s3://{bucket}/{key}", entry.get("e_tag")
    check_storable(uri, None)
    known = str(size).isdecimal() and len(str(size)) < 19
    # As a listing has it, so that both know the same version.
    return NewImage(uri=uri, etag=f'"{etag}"' if etag else None, size=int(size) if known and size is not None else None)
