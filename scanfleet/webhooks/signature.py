"""Signs what is sent, so that the receiver knows who sent it, and when."""

from __future__ import annotations

import hashlib
import hmac

HEADER, EVENT_HEADER = "X-Scanfleet-Signature", "X-Scanfleet-Event"


def signature(body: bytes, *, secret: str, at: int) -> str:
    """Return the header: HMAC-SHA256 over the time (seconds since 1970), a dot and the body."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"
