"""Remove secrets from every text that leaves the process: log lines, errors, rows of the ledger.

There are two nets. Patterns find credentials from any origin: `user:password@` and the query string of any URL, and the
parameters that sign an S3 address. The passwords of the settings are also replaced literally, so that a library that
quotes half a URL, or decodes it first, shows none of them either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 6  # characters; a shorter password would hide common words, and the patterns still find it in a URL
# Secrets that boto3, the hub client and libpq take from the environment; no setting holds them.
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "PGPASSWORD")

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
# Every address is consumed, with or without a query: a search that fails at each letter of a long name takes minutes.
_QUERY = re.compile(r"\b(\w+://[^\s?'\"]+)(?:\?[^\s'\"]+)?")
_SIGNATURE = re.compile(
    r"\b(X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig)=[^&\s'\"]+", re.IGNORECASE
)
_ADDRESS = re.compile(r"\b\w+://[^?\s]*(\??)")
_PERMISSION = re.compile(
    r"[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig)=", re.IGNORECASE
)
_hidden: set[str] = set()


def redact(text: str) -> str:
    """Remove credentials, signatures and the query strings of URLs from a text.

    >>> redact("redis://:pw@h:6379/0 and https://b/k?X-Amz-Signature=s")
    'redis://h:6379/0 and https://b/k'
    """
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SIGNATURE.sub(rf"\1={HIDDEN}", _QUERY.sub(r"\1", _CREDENTIALS.sub("", text)))


def hide(secret: str | None) -> None:
    """Have `redact` remove this secret from every text from now on, literally and percent-encoded."""
    if secret is None:
        return
    for form in (secret, unquote(secret), quote(unquote(secret), safe="")):
        if len(form) >= SHORTEST:
            _hidden.add(form)


def hide_variables(environment: Mapping[str, str]) -> None:
    """Hide the secrets that libraries take from the environment."""
    for name in SECRET_VARIABLES:
        hide(environment.get(name))


def is_presigned(uri: str) -> bool:
    """Return True if an address carries its own permission: anyone who reads it may use it."""
    if "?" not in uri:  # most are not, and each line of a manifest is asked
        return False
    query = next((found.start(1) for found in _ADDRESS.finditer(uri) if found[1]), len(uri))
    return _PERMISSION.search(uri, query) is not None


def without_signatures(value: Any) -> Any:
    """Return a JSON value with the signatures of presigned addresses removed; everything else is unchanged."""
    match value:
        case str():
            return _QUERY.sub(lambda found: found[1] if is_presigned(found[0]) else found[0], value)
        case dict():
            return {key: without_signatures(inner) for key, inner in value.items()}
        case list():
            return [without_signatures(inner) for inner in value]
    return value


def storable(text: str) -> str:
    """Return a text that every database accepts, without secrets: an image can influence a decoder's error message."""
    return redact(text).replace("\0", "").encode("utf-8", "replace").decode()
