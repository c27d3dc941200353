"""Uris of objects in buckets."""

from __future__ import annotations

from scanfleet.errors import BadSource


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def split_s3(uri: str) -> tuple[str, str]:
    """`s3://bucket/a/b` -> ("bucket", "a/b"). Raises BadSource."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise BadSource(f"{uri!r} names no bucket: write s3://bucket/prefix")
    return bucket, key
