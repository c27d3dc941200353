"""Uris of objects in buckets."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from scanfleet.errors import BadSource

_AMAZON = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]*)\.)?s3(?:[.-](?:dualstack\.)?[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?"
)


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def split_s3(uri: str) -> tuple[str, str]:
    """`s3://bucket/a/b` -> ("bucket", "a/b"). Raises BadSource."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise BadSource(f"{uri!r} names no bucket: write s3://bucket/prefix")
    return bucket, key


def s3_of_address(address: str, *, endpoint: str | None = None) -> str | None:
    """Return the object that an https address names, presigned or not, as s3://bucket/key; None if it is none in S3.

    endpoint: the address of another server that speaks S3. Its query, with any signature, is dropped.
    """
    parts = urlsplit(address)
    host, path = parts.netloc.rpartition("@")[2], unquote(parts.path.removeprefix("/"))
    own = urlsplit(endpoint).netloc if endpoint else None
    name = host.partition(":")[0].lower()
    bucket = None
    if found := _AMAZON.fullmatch(name):
        bucket = found["bucket"]
    elif own is not None and host.endswith(f".{own}"):
        bucket = host.removesuffix(f".{own}")
    elif host != own:
        return None
    if bucket is None:
        bucket, _, path = path.partition("/")
    return f"s3://{bucket}/{path}" if bucket and path else None
