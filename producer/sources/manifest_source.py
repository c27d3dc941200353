"""The images of a manifest. An odd entry is left out, and the others are taken."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from scanfleet.config.validation import printable
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import AccessDenied, BadManifest, SourceNotFound
from scanfleet.images import SUFFIXES
from scanfleet.producer.sources.base import Candidate, LeftOut, Skip, local_image, remote_image
from scanfleet.producer.sources.manifest import (
    READERS,
    BrokenFileError,
    Lines,
    MalformedLineError,
    Row,
    check_storable,
    read_rows,
)
from scanfleet.redaction import without_signatures
from scanfleet.storage.file_uri import path_to_uri, uri_to_path
from scanfleet.storage.shards.member_uri import split_member

PARQUET = ".parquet"
KINDS = (*READERS, PARQUET)
MOST_ODD = 20  # entries before the first sound one; then the file is no manifest
SHOWN_CHARACTERS = 60  # of a line that is not an entry


class Place(Protocol):
    """Where in a manifest the last row was: its unit and number."""

    unit: str
    number: int


def manifest_kind(path: Path) -> str | None:
    """Return the suffix that tells the format of a manifest, without `.gz`; None if the file is none."""
    *_, kind = ["", *path.suffixes] if path.suffix.lower() != ".gz" else ["", *path.suffixes[:-1]]
    kind = kind.lower()
    packed = path.suffix.lower() == ".gz"
    return kind if kind in READERS or (kind == PARQUET and not packed) else None


class ManifestSource:
    """Relative paths start at the manifest's folder and must stay below it. hosts: of https:// entries."""

    sifts_by_suffix = False
    resumable = False
    top = ""

    def __init__(self, path: Path, hosts: Collection[str] = ()) -> None:
        self._path = path.absolute()
        self._hosts = hosts
        self._folder = os.fsencode(os.path.realpath(self._path.parent))
        self.root = os.fsdecode(self._folder)
        self.name = path_to_uri(os.fsencode(self._path))
        self._kind = manifest_kind(path) or ""

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        held: list[LeftOut] = []  # before the first sound entry, which shows that this is a manifest
        sound = False
        with _unpacked(self._path) as file:
            place, rows = _rows(file, self._kind)
            try:
                for row in rows:
                    try:
                        item = self._candidate(row, first=not sound)
                    except BrokenFileError:
                        raise
                    except MalformedLineError as error:
                        if sound:
                            yield self._odd(place, error)
                            continue
                        held.append(self._odd(place, error))
                        if len(held) > MOST_ODD:
                            break
                        continue
                    if not sound:
                        yield from held
                        sound, held = True, []
                    yield item
            except MalformedLineError as error:
                raise BadManifest(str(held[0] if held else self._odd(place, error))) from None
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise BadManifest(f"{self._path}: the gzip file is damaged or cut: {printable(str(error))}") from None
        if held:
            raise BadManifest(str(held[0]))

    def _candidate(self, row: Row | MalformedLineError, *, first: bool) -> Candidate:
        """Raises MalformedLineError; BrokenFileError for prose."""
        if isinstance(row, MalformedLineError):
            raise row
        text, meta = row
        if first and self._kind == ".txt":
            self._require_entry(text)
        return Candidate(image=self._image(text, meta), path=text)

    def _odd(self, place: Place, error: MalformedLineError) -> LeftOut:
        return LeftOut(where=f"{self._path}, {place.unit} {place.number}", why=printable(str(error)))

    def _require_entry(self, text: str) -> None:
        """Refuse prose: the first entry of a .txt file must look like an image.

        That is a uri, an absolute path, the name of an image, or an existing file below the manifest's folder.
        """
        exists = os.path.exists(os.path.join(self._folder, uri_to_path(text)))
        if not exists and "*" in text:
            raise BrokenFileError("manifests do not expand globs: name the folder instead and choose with --include")
        if "://" in text or text.startswith("/") or text.lower().endswith(SUFFIXES) or exists or split_member(text):
            return
        short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
        raise BrokenFileError(f"{short!r} is neither a uri nor the name of an image: write one image per line")

    def _image(self, text: str, meta: dict[str, Any] | None) -> NewImage:
        check_storable(text, meta)
        meta = meta and without_signatures(meta)
        remote = remote_image(text, self._hosts, meta)
        if remote is not None:
            return remote
        shard, name = split_member(text) or (text, None)  # the name is no path: ".." in it is a part of it
        path = uri_to_path(shard)
        if b"\0" in path:
            raise MalformedLineError("contains a NUL byte")
        root = self.root
        if path.startswith(b"/"):
            path = os.path.normpath(path)
            root = os.fsdecode(os.path.dirname(path))
        else:
            path = self._below(path)
        plain = b"#".join((path, (name or "").encode()))
        if name is not None and "/" not in name and os.path.exists(plain):  # a file of that very name
            path, name = plain, None
        return local_image(path, root=root, meta=meta, member=name)

    def _below(self, path: bytes) -> bytes:
        joined = os.path.normpath(os.path.join(self._folder, path))
        if not joined.startswith(self._folder.rstrip(b"/") + b"/"):
            raise MalformedLineError(f"{os.fsdecode(path)} is not below the manifest's folder: write the absolute path")
        return joined


def _rows(file: IO[bytes], kind: str) -> tuple[Place, Iterator[Row | MalformedLineError]]:
    if kind == PARQUET:
        from scanfleet.producer.sources.parquet import ParquetRows

        table = ParquetRows(file)
        return table, iter(table)
    lines = Lines(file)
    return lines, read_rows(lines, kind)


@contextmanager
def opened(path: Path, *, words: str) -> Iterator[IO[bytes]]:
    """Open a file of a source, which messages call `words`. Raises AccessDenied, SourceNotFound."""
    try:
        file = path.open("rb")
    except PermissionError:
        raise AccessDenied(f"no permission to read {words}") from None
    except OSError as error:
        raise SourceNotFound(f"cannot read {words}: {error.strerror}") from None
    with file:
        yield file


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with opened(path, words=f"the manifest {path}") as file:
        yield io.BufferedReader(gzip.GzipFile(fileobj=file)) if path.suffix.lower() == ".gz" else file
