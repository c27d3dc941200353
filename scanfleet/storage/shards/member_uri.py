"""Uris and versions of members: `s3://b/shard.tar#a/1.jpg`, `/data/shard.zip#1.jpg`, `/data/x.arrow#image/17`.

A member's version is that of its shard, and where it lies: `"etag"@512+10240`. So it is found without an index, and an
overwritten shard is another version of each member. Without a place (`"etag"@`) the name is looked up.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote_from_bytes

SHARDS = (".tar", ".zip")
# Their members have no place that could be read alone.
COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tgz", ".tbz2", ".txz")
ARROW = ".arrow"  # one file of a dataset; only listed together with the others

_MEMBER = re.compile(r"(.+?\.(?:tar|zip|arrow))#(.+)", re.IGNORECASE | re.DOTALL)
_VERSION = re.compile(r"(.*)@(?:(\d{1,19})\+(\d{1,19})(?:z([0-9a-f]{8}))?)?", re.DOTALL)


class Place(NamedTuple):
    """Where a member lies in its shard, in bytes.

    offset, size: of its bytes as they are; in a zip file of its local header, and packed. crc: CRC-32 in a zip file.
    """

    offset: int
    size: int
    crc: int | None = None


def is_shard(name: str) -> bool:
    return name.lower().endswith(SHARDS)


def split_member(uri: str) -> tuple[str, str] | None:
    """Return the uri of the shard and the name of the member; None for an object of its own.

    >>> split_member("s3://b/x.tar#a/1.jpg"), split_member("s3://b/1#2.jpg")
    (('s3://b/x.tar', 'a/1.jpg'), None)
    """
    found = _MEMBER.fullmatch(uri) if "#" in uri else None
    return None if found is None else (found[1], found[2])


def member_uri(shard: str, name: str) -> str:
    return f"{shard}#{name}"


def member_name(raw: bytes) -> str:
    """Return the name as text; one that is not UTF-8 is percent-encoded, so that every database can hold it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(raw)


def version_of(shard: str | None, place: Place | None = None) -> str:
    """
    >>> version_of('"e"', Place(512, 10)), version_of('"e"', Place(0, 9, 255)), version_of('"e"')
    ('"e"@512+10', '"e"@0+9z000000ff', '"e"@')
    """
    if place is None:
        return f"{shard or ''}@"
    packed = "" if place.crc is None else f"z{place.crc:08x}"
    return f"{shard or ''}@{place.offset}+{place.size}{packed}"


def split_version(version: str | None) -> tuple[str | None, Place | None] | None:
    """Return the version of the shard and the place; None if it is not the version of a member.

    >>> split_version('"e"@512+10'), split_version('"e"')
    (('"e"', Place(offset=512, size=10, crc=None)), None)
    """
    if version is None:
        return None, None
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    crc = None if found[4] is None else int(found[4], 16)
    place = None if found[2] is None else Place(int(found[2]), int(found[3]), crc)
    return found[1] or None, place
