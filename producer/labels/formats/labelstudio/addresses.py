"""The image of a Label Studio task, as a name that can be read: s3://…, or a name below --root."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from scanfleet.producer.labels.formats.entries import Options, name_of
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.storage.s3.uri import s3_of_address

IMAGE_FIELDS = ("image", "img", "url", "uri")
RESOLVED = re.compile(r"/(?:tasks|projects)/\d+/(?:presign|resolve)/?$")  # Label Studio's own address of an object


def image_field(data: dict[str, Any], options: Options) -> str:
    """Return the field that names the image. Raises MalformedLineError."""
    name = next((name for name in (*_named(options), *IMAGE_FIELDS) if name in data), None)
    if name is None:
        raise MalformedLineError(f"`data` has no image (looked for {', '.join((*_named(options), *IMAGE_FIELDS))})")
    return name


def _named(options: Options) -> tuple[str, ...]:
    return () if options.uri in IMAGE_FIELDS else (options.uri,)


def image_of(data: dict[str, Any], options: Options) -> str:
    """Raises MalformedLineError."""
    name = image_field(data, options)
    text = name_of(data[name], name)
    address = urlsplit(text)
    if RESOLVED.search(address.path):
        return _decoded(parse_qs(address.query).get("fileuri", [""])[0])
    if address.scheme in ("http", "https"):
        if found := s3_of_address(text, endpoint=options.endpoint):
            return found
        if address.path.startswith("/data/"):  # a host may be configured
            text = text[text.index("/data/") :]
    if text.startswith("/data/local-files/"):
        return name_of(parse_qs(urlsplit(text).query).get("d", [None])[0], "path after ?d=")
    if text.startswith("/data/"):
        return unquote(text.removeprefix("/data/"))
    return text


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise MalformedLineError("the address after ?fileuri= is not in base 64") from None
