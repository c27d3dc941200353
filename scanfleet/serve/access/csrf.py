"""Tokens against forged requests: made of the session's secret, so nothing of them is stored."""

from __future__ import annotations

import hashlib
import hmac

HEADER = "x-csrf-token"
FIELD = "csrf_token"
SAFE = ("GET", "HEAD", "OPTIONS")


def csrf_token(session: str) -> str:
    """Return the token that pages of this session send along."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


def fits(session: str, given: str | None) -> bool:
    """Compare in constant time."""
    return given is not None and hmac.compare_digest(csrf_token(session).encode(), given.encode())
