"""Browser sessions: a random secret in a cookie, whose hash names a token until it expires."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from scanfleet.db.access.tokens import TokenInfo, digest_of, new_secret, valid_token
from scanfleet.db.engine import now
from scanfleet.db.tables.access import ApiToken, WebSession


def begin_session(connection: sa.Connection, token: TokenInfo, *, lasts: timedelta) -> str:
    """Return the secret of a new session. Those that ended are cleared away on the way."""
    at, secret = now(connection), new_secret()
    connection.execute(sa.delete(WebSession).where(WebSession.expires_at <= at))
    row = {"digest": digest_of(secret), "token_id": token.id, "created_at": at, "expires_at": at + lasts}
    connection.execute(sa.insert(WebSession).values(row))
    return secret


def find_session(connection: sa.Connection, secret: str) -> TokenInfo | None:
    """Return the token of a session that has not ended."""
    live = sa.select(WebSession.token_id)
    live = live.where(WebSession.digest == digest_of(secret), WebSession.expires_at > now(connection))
    return valid_token(connection, ApiToken.id.in_(live))


def end_session(connection: sa.Connection, secret: str) -> None:
    connection.execute(sa.delete(WebSession).where(WebSession.digest == digest_of(secret)))
