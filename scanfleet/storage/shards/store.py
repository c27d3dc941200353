"""A store that also reads members of tar and zip files: by their place, without the rest of the shard."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator

from scanfleet.errors import BadSource, ImageError, ScanfleetError, StoreUnavailable
from scanfleet.storage.base import FetchedObject, ObjectInfo, ObjectStore, Span, fetch_error
from scanfleet.storage.shards.index import Member, open_shard
from scanfleet.storage.shards.member_uri import (
    ARROW,
    Place,
    split_member,
    split_version,
    version_of,
)

MOST_KEPT = 200_000  # members of all indexes that are kept
N_LOCKS = 16
INDEX_SECONDS = 45.0  # of reading on in an index for one member; the next attempt goes on there
_HEADER = struct.Struct("<4s5H3I2H")  # of a member of a zip file, before its name
_SIGNATURE = b"PK\x03\x04"
_GUESS = 1024  # bytes of name and extra fields; longer ones take a second read
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1


class _Index:
    """The places of a shard's members by name, read as far as somebody asked.

    Of members with one name the first counts. etag: of the version of the shard.
    """

    def __init__(self, store: ObjectStore, shard: str, etag: str | None) -> None:
        found = open_shard(store, shard, etag=etag)
        self.etag = found.etag
        self.places: dict[str, Place] = {}
        self.damage: str | None = None
        self._shard = shard
        self._rest = found.members
        self.broken_off = False  # by an error of the store: it cannot be read on

    def place_of(self, name: str) -> Place | None:
        """Return None if there is no such member. Raises StoreUnavailable: it is not read that far yet."""
        until = time.monotonic() + INDEX_SECONDS
        while name not in self.places:
            try:
                member = next(self._rest, None)
            except ScanfleetError:
                self.broken_off = True
                raise
            if member is None:
                return None
            if isinstance(member, Member):
                self.places.setdefault(member.name, member.place)
            elif member.name is None:
                self.damage = member.why
            if name not in self.places and time.monotonic() > until:
                read = f"{len(self.places)} members so far"
                raise StoreUnavailable(f"{self._shard}: its members are still being listed ({read})")
        return self.places[name]


class ShardStore:
    """Objects of another store, and their members. Threads may share it."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in range(N_LOCKS)]
        self._indexes: OrderedDict[str, _Index] = OrderedDict()

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        return self.inner.list(location, after=after)

    def put(self, uri: str, data: bytes) -> None:
        if split_member(uri) is not None:
            raise BadSource(f"{uri}: members of an archive cannot be written")
        self.inner.put(uri, data)

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        """Ask about the shard: a member is missing with it."""
        found, version = split_member(uri), split_version(etag)
        if found is not None and version is not None:
            uri, etag = found[0], version[0]
        self.inner.confirm_missing(uri, etag=etag, root_id=root_id)

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        """Raises also ImageError (no_member, corrupt, unsupported)."""
        found, version = split_member(uri), split_version(etag)
        if found is None or version is None:  # a file may have such a name; then it was listed, and has its own etag
            return self.inner.fetch(uri, etag=etag, max_bytes=max_bytes, span=span)
        shard, name = found
        pinned, place = version
        if place is not None:
            return self._read(shard, pinned, place, max_bytes=max_bytes)
        try:
            return self._look_up(shard, name, pinned, max_bytes=max_bytes)
        except ImageError as error:
            if error.reason != "changed" or pinned is not None:
                raise
        self._forget(shard)  # overwritten since its index was read, and no version of it is asked for
        return self._look_up(shard, name, pinned, max_bytes=max_bytes)

    def _look_up(self, shard: str, name: str, etag: str | None, *, max_bytes: int) -> FetchedObject:
        if shard.lower().endswith(ARROW):
            raise fetch_error("unsupported", "a row of an Arrow file has a place only where its dataset is listed")
        reading = self._reading[hash(shard) % N_LOCKS]  # one thread reads on, for all of them
        if not reading.acquire(timeout=INDEX_SECONDS):
            raise StoreUnavailable(f"{shard}: its members are still being listed")
        try:
            index = self._index(shard, etag)
            place = index.place_of(name)
        finally:
            reading.release()
        if place is None:
            if index.damage is not None:
                raise fetch_error("corrupt", f"{name[:200]!r} is not found in {shard}: {index.damage}")
            raise fetch_error("no_member", f"{name[:200]!r} is not in {shard}")
        return self._read(shard, index.etag, place, max_bytes=max_bytes)

    def _index(self, shard: str, etag: str | None) -> _Index:
        with self._lock:
            known = self._indexes.get(shard)
        if known is None or known.broken_off or (etag is not None and known.etag != etag):
            known = _Index(self.inner, shard, etag)
        with self._lock:
            self._indexes[shard] = known
            self._indexes.move_to_end(shard)
            while len(self._indexes) > 1 and sum(len(each.places) for each in self._indexes.values()) > MOST_KEPT:
                self._indexes.popitem(last=False)
        return known

    def _forget(self, shard: str) -> None:
        with self._lock:
            self._indexes.pop(shard, None)

    def _read(self, shard: str, etag: str | None, place: Place, *, max_bytes: int) -> FetchedObject:
        if place.size > max_bytes and place.crc is None:
            self._require_there(shard, etag, place)
            raise fetch_error("too_large", f"{place.size} bytes is over the limit of {max_bytes}")
        if place.crc is not None:
            data, version = self._unpacked(shard, etag, place, max_bytes=max_bytes)
        else:
            data, version = self._part(shard, etag, place.offset, place.size)
        return FetchedObject(data, version_of(version, place), len(data))

    def _require_there(self, shard: str, etag: str | None, place: Place) -> None:
        """Whoever asks for no bytes asks whether the store delivers this version."""
        self._part(shard, etag, place.offset, 1)

    def _part(self, shard: str, etag: str | None, offset: int, length: int) -> tuple[bytes, str | None]:
        """Return exactly these bytes, and the version. Raises ImageError (corrupt) where the shard ends before."""
        asked = max(1, length)  # a part without bytes cannot be asked for
        found = self.inner.fetch(shard, etag=etag, max_bytes=asked, span=Span(offset, asked))
        if len(found.data) < length:
            raise fetch_error("corrupt", f"{shard} ends in the midst of the member")
        return found.data[:length], found.etag

    def _unpacked(self, shard: str, etag: str | None, place: Place, *, max_bytes: int) -> tuple[bytes, str | None]:
        if place.size > max_bytes + _GUESS:  # deflate adds a few bytes to what it cannot pack
            self._require_there(shard, etag, place)
            raise fetch_error("too_large", f"{place.size} packed bytes are over the limit of {max_bytes}")
        length = _HEADER.size + _GUESS + place.size
        found = self.inner.fetch(shard, etag=etag, max_bytes=length, span=Span(place.offset, length))
        if len(found.data) < _HEADER.size or not found.data.startswith(_SIGNATURE):
            raise fetch_error("corrupt", f"{shard} has no member at byte {place.offset}")
        _, _, flags, method, *_, n_name, n_extra = _HEADER.unpack_from(found.data)
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise fetch_error("unsupported", "an encrypted member, or one that is neither stored nor deflated")
        start = _HEADER.size + n_name + n_extra
        packed = found.data[start : start + place.size]
        if len(packed) < place.size:
            packed, _ = self._part(shard, found.etag, place.offset + start, place.size)
        data = packed if method == _STORED else _inflated(packed, max_bytes=max_bytes)
        if len(data) > max_bytes:
            raise fetch_error("too_large", f"more than {max_bytes} bytes, unpacked")
        if zlib.crc32(data) != place.crc:
            raise fetch_error("corrupt", "the member's bytes do not have the checksum of the archive")
        return data, found.etag


def _inflated(packed: bytes, *, max_bytes: int) -> bytes:
    """Return the unpacked bytes, one more than `max_bytes` at most. Raises ImageError (corrupt)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise fetch_error("corrupt", f"the member cannot be unpacked: {error}") from None
    if not inflater.eof and len(data) <= max_bytes:
        raise fetch_error("corrupt", "the packed member ends too early")
    return data
