"""Tokens of the HTTP API. The ledger holds their hash; the token itself is shown once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables.access import SCOPES, ApiToken, WebSession
from scanfleet.errors import RequestError, UnknownName

MARK = "sft_"  # tells scanners of secrets what it is


@dataclass(frozen=True, kw_only=True)
class TokenInfo:
    id: int
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def digest_of(secret: str) -> str:
    """Return what is stored of a secret. It is 256 random bits, so a fast hash will do."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    return MARK + secrets.token_urlsafe(32)


def create_token(
    connection: sa.Connection, *, name: str, scopes: Collection[str], lasts: timedelta | None = None
) -> tuple[TokenInfo, str]:
    """Add a token, and return it with its secret, which nothing can show again. Raises RequestError."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise RequestError(f"no scope {', '.join(unknown) or 'given'}: name some of {', '.join(SCOPES)}")
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise RequestError("the name of a token is up to 100 printable characters")
    if connection.execute(sa.select(ApiToken.id).where(ApiToken.name == name)).first() is not None:
        raise RequestError(f"there is a token {name} already: its name stands in the audit, so choose another")
    secret, at = new_secret(), now(connection)
    row: dict[str, Any] = {
        "name": name,
        "digest": digest_of(secret),
        "scopes": [each for each in SCOPES if each in scopes],
    }
    row |= {"created_at": at, "expires_at": None if lasts is None else at + lasts}
    added = connection.execute(sa.insert(ApiToken).values(row).returning(*_COLUMNS)).one()
    return _info(added), secret


def list_tokens(connection: sa.Connection) -> list[TokenInfo]:
    return [_info(row) for row in connection.execute(sa.select(*_COLUMNS).order_by(ApiToken.id))]


def revoke_token(connection: sa.Connection, name: str) -> TokenInfo:
    """End a token and its browser sessions at once. Raises UnknownName."""
    ended = sa.update(ApiToken).where(ApiToken.name == name, ApiToken.revoked_at.is_(None))
    row = connection.execute(ended.values(revoked_at=now(connection)).returning(*_COLUMNS)).one_or_none()
    if row is None:
        raise UnknownName(f"no valid token {name!r}: `scanfleet token ls` lists them")
    connection.execute(sa.delete(WebSession).where(WebSession.token_id == row.id))
    return _info(row)


def find_token(connection: sa.Connection, secret: str) -> TokenInfo | None:
    """Return the valid token of a secret.

    The comparison is the index's, of hashes: what its time tells of a hash tells nothing of the secret.
    """
    return valid_token(connection, ApiToken.digest == digest_of(secret))


def valid_token(connection: sa.Connection, which: sa.ColumnElement[bool]) -> TokenInfo | None:
    """Return the token that neither ended nor was revoked."""
    lasting = sa.or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now(connection))
    row = connection.execute(sa.select(*_COLUMNS).where(which, ApiToken.revoked_at.is_(None), lasting)).one_or_none()
    return None if row is None else _info(row)


_COLUMNS = (
    ApiToken.id, ApiToken.name, ApiToken.scopes, ApiToken.created_at, ApiToken.expires_at, ApiToken.revoked_at,
)  # fmt: skip


def _info(row: sa.Row[tuple[object, ...]]) -> TokenInfo:
    values = dict(row._mapping)
    return TokenInfo(**(values | {"scopes": tuple(values["scopes"])}))
