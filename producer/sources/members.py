"""Members of tar and zip archives as images: of one that is named, or of all that a folder or bucket holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from scanfleet.config.validation import printable
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import ImageError, ObjectRefused
from scanfleet.images import SUFFIXES
from scanfleet.producer.sources.base import Candidate, LeftOut, Skip, Source
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.shards.index import Unread, open_shard
from scanfleet.storage.shards.member_uri import COMPRESSED, is_shard, member_uri, split_member, version_of

Opener = Callable[[NewImage], ObjectStore]
PACKED = "a compressed tar cannot be read member by member: unpack it (gunzip, zstd -d), or use zip"


class ShardSource:
    """The members of one archive. They are matched by their names in it."""

    sifts_by_suffix = True
    resumable = False

    def __init__(self, shard: Source, open_store: Opener) -> None:
        self.name = shard.name
        self.root = shard.root
        self.top = member_uri(shard.name, "")
        self._shard = shard
        self._open = open_store

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        for item in self._shard.candidates(after=None, skip=skip):
            if isinstance(item, Candidate) and item.image.uri == self.name:
                yield from members_of(item.image, self._open, below="")


class MembersSource:
    """A source in which each archive counts as a folder of its members. Of a manifest's archives images alone count."""

    def __init__(self, source: Source, open_store: Opener) -> None:
        self.sifts_by_suffix = source.sifts_by_suffix
        self.name = source.name
        self.root = source.root
        self.top = source.top
        self.resumable = source.resumable
        self._source = source
        self._open = open_store

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        member = None if after is None else split_member(after)
        if member is not None:  # stopped in the midst of a shard: its members are listed once more
            shard = NewImage(uri=member[0], root=self.root)
            yield from members_of(shard, self._open, below=f"{shard.uri.removeprefix(self.top)}/")
            after = shard.uri
        for item in self._source.candidates(after=after, skip=skip):
            if isinstance(item, Candidate) and item.path.lower().endswith(COMPRESSED):
                yield LeftOut(where=item.image.uri, why=PACKED)
            elif isinstance(item, Candidate) and is_shard(item.path) and not skip(item.path):
                for each in members_of(item.image, self._open, below=f"{item.path}/"):
                    if isinstance(each, LeftOut) or self.sifts_by_suffix or each.path.lower().endswith(SUFFIXES):
                        yield each
            else:
                yield item


def members_of(shard: NewImage, open_store: Opener, *, below: str) -> Iterator[Candidate | LeftOut]:
    """Yield the members of a shard; one that cannot be read at all is left out. Raises StoreUnavailable.

    below: what their paths begin with.
    """
    try:
        found = open_shard(open_store(shard), shard.uri, etag=shard.etag)
        for member in found.members:
            if isinstance(member, Unread):
                yield from _unread(shard.uri, member)
                continue
            uri = member_uri(shard.uri, member.name)
            image = replace(shard, uri=uri, etag=version_of(found.etag, member.place), size=member.size)
            yield Candidate(image=image, path=below + member.name)
    except ImageError as error:
        yield LeftOut(where=shard.uri, why=f"{error.reason}: {printable(error.detail)}")
    except ObjectRefused as error:
        yield LeftOut(where=shard.uri, why=printable(str(error)))


def _unread(shard: str, member: Unread) -> Iterator[LeftOut]:
    if member.name is None or member.name.lower().endswith(SUFFIXES):
        where = shard if member.name is None else member_uri(shard, printable(member.name))
        yield LeftOut(where=where, why=printable(member.why))
