"""Turns one entry of a manifest, or a line on stdin, into an image. What it says is untrusted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from producer.sources.manifest import MalformedLineError
from scanfleet.config.web_hosts import web_address
from scanfleet.db.scans.batches import NewImage
from scanfleet.redaction import is_presigned


def remote_image(text: str, hosts: Collection[str], meta: dict[str, Any] | None = None) -> NewImage | None:
    """Return the image of an address; None: it is a path. hosts: of https:// addresses. Raises MalformedLineError."""
    if is_presigned(text):
        raise MalformedLineError("a presigned URL is a secret and expires: write s3://bucket/key")
    if text.startswith("s3://"):
        if not all(text.removeprefix("s3://").partition("/")):
            raise MalformedLineError(f"{text!r} names no object: write s3://bucket/key")
        return NewImage(uri=text, meta=meta)
    if text.startswith("https://"):
        try:
            web_address(text, hosts)
        except ValueError as error:
            raise MalformedLineError(str(error)) from None
        return NewImage(uri=text, meta=meta)
    if "://" in text and not text.startswith("file:///"):
        raise MalformedLineError(
            f"{text.split('://')[0]}:// is not supported: write a path, s3://bucket/key or https://"
        )
    return None
