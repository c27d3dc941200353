"""The members of a shard, in the order in which they lie there. Their names are untrusted, and no more than names."""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from scanfleet.storage.base import ObjectStore
from scanfleet.storage.shards.member_uri import Place, member_name
from scanfleet.storage.shards.ranged_file import RangedFile, TooMuchAtOnceError

MOST_MEMBERS = 1_000_000
MOST_NAME = 4096  # characters
MOST_TAR_HEADER = 1 << 20  # bytes
MOST_ZIP_DIRECTORY = 64 << 20
BLOCK = tarfile.BLOCKSIZE
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# What parsers raise for bytes that are no archive.
_DAMAGES = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, TooMuchAtOnceError, ValueError, ArithmeticError,
    LookupError, EOFError, NotImplementedError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Member:
    """size: of the member in bytes, unpacked."""

    name: str
    place: Place
    size: int


@dataclass(frozen=True, kw_only=True)
class Unread:
    """What cannot be read: a member by name, or with the name None the rest of the shard."""

    name: str | None
    why: str


@dataclass(kw_only=True)
class Shard:
    """etag: of the version that is being read."""

    etag: str | None = None
    members: Iterator[Member | Unread] = field(default_factory=lambda: iter(()))


def open_shard(store: ObjectStore, uri: str, *, etag: str | None) -> Shard:
    """Begin to list a shard. Raises what `fetch` raises, also while its members are read."""
    is_zip = uri.lower().endswith(".zip")
    file = RangedFile(store, uri, etag=etag, most_bytes=MOST_ZIP_DIRECTORY if is_zip else MOST_TAR_HEADER)
    return Shard(etag=file.etag, members=_bounded(_zip_members(file) if is_zip else _tar_members(file)))


def _bounded(members: Iterator[Member | Unread]) -> Iterator[Member | Unread]:
    try:
        for number, member in enumerate(members):
            if number >= MOST_MEMBERS:
                yield Unread(name=None, why=f"more than {MOST_MEMBERS} members: the others are not listed")
                return
            if member.name is not None and (len(member.name) > MOST_NAME or "\0" in member.name):
                name = member.name[:100].replace("\0", "")
                yield Unread(name=f"{name}…", why="a name that no file could have")
            elif isinstance(member, Member) and min(member.place[:2]) < 0:
                yield Unread(name=member.name, why="damaged: its place is outside the archive")
            else:
                yield member
    except _DAMAGES as error:
        yield Unread(name=None, why=f"damaged: {error or type(error).__name__}; the rest is not listed")


def _tar_members(file: RangedFile) -> Iterator[Member | Unread]:
    packed = next((name for magic, name in _PACKED.items() if file.read(8).startswith(magic) or file.seek(0)), None)
    if packed is not None:
        yield Unread(name=None, why=f"packed with {packed}: unpack it, since members are read by their place")
        return
    with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as tar:
        end = 0
        while (found := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # else it keeps them all
            if tar.offset <= end:
                raise tarfile.ReadError("a member that ends before it begins")
            end, file.spent = tar.offset, 0
            yield from _tar_member(found)
        yield from _end_of_tar(file, tar.offset)


def _tar_member(found: tarfile.TarInfo) -> Iterator[Member | Unread]:
    name = member_name(found.name.encode("utf-8", "surrogateescape"))
    if found.issparse():
        yield Unread(name=name, why="a sparse file")
    elif found.isreg():
        yield Member(name=name, place=Place(found.offset_data, found.size), size=found.size)
    elif found.issym() or found.islnk():
        yield Unread(name=name, why="a link to another member")


def _end_of_tar(file: RangedFile, offset: int) -> Iterator[Unread]:
    """tarfile ends silently at a header that it cannot read."""
    file.spent = 0
    file.seek(offset)
    block = file.read(BLOCK)
    if block.strip(b"\0"):
        yield Unread(name=None, why=f"damaged at byte {offset}; the rest is not listed")
    elif len(block) < BLOCK:
        yield Unread(name=None, why="it ends without the zeros that close a tar: perhaps it is cut")


def _zip_members(file: RangedFile) -> Iterator[Member | Unread]:
    with zipfile.ZipFile(file) as archive:
        for found in archive.infolist():
            if found.is_dir():
                continue
            name = member_name(found.filename.encode("utf-8", "surrogateescape"))
            if found.flag_bits & 1:
                yield Unread(name=name, why="encrypted")
            elif found.compress_type not in METHODS:
                yield Unread(
                    name=name, why=f"packed by method {found.compress_type}: only stored and deflated are read"
                )
            elif stat.S_ISLNK(found.external_attr >> 16):
                yield Unread(name=name, why="a link to another member")
            else:
                place = Place(found.header_offset, found.compress_size, found.CRC)
                yield Member(name=name, place=place, size=found.file_size)
