"""Names and addresses of servers that score: `endpoint:NAME` is the model NAME of an OpenAI-compatible server.

Pure functions over texts; nothing here connects to anything.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

PREFIX = "endpoint:"
_NAME = re.compile(r"[A-Za-z0-9][\w./:@+-]{0,199}", re.ASCII)  # what vLLM, SGLang and hosted servers call their models
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")  # characters that a header may hold


def model_at_endpoint(model: str) -> str | None:
    """Return the server's name of the model. None: the setting names no server, or an impossible model.

    >>> model_at_endpoint("endpoint:gpt-4o")
    'gpt-4o'
    """
    name = model.removeprefix(PREFIX)
    return name if name != model and _NAME.fullmatch(name) else None


def check_url(url: str) -> str:
    """Return the address without a trailing slash. Raises ValueError, which never quotes it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("cannot be read as an address: write https://HOST/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write https://HOST/v1 (http:// for a server on this machine)")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address alone, without user, password or '?': the key has a setting, endpoint_key")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("leave /chat/completions out: the address ends where that begins, usually in /v1")
    return url.rstrip("/")


def check_key(key: str) -> None:
    """Raise ValueError, which quotes nothing of it, for a key that does not fit into a header."""
    if not _KEY.fullmatch(key):
        raise ValueError("a key is one word of printable ASCII: no space, no line break, not empty")
