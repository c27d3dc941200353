"""The tables of access by HTTP: tokens, browser sessions, and who did what. No secret is stored, only its SHA-256."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base

SCOPES = ("read", "score", "review", "admin")


class ApiToken(Base):
    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)  # who acts: it stands in labels and in the audit
    digest: Mapped[str] = mapped_column(unique=True)  # SHA-256 of 256 random bits
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]  # None: never
    revoked_at: Mapped[datetime | None]


class WebSession(Base):
    """A browser that has logged in with a token. It ends with the token, at the latest."""

    __tablename__ = "web_sessions"
    __table_args__ = (sa.Index(None, "token_id"), sa.Index(None, "expires_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    token_id: Mapped[int] = mapped_column(sa.ForeignKey("api_tokens.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AccessAudit(Base):
    """One decision or act of administration, and who did it. Rows are only added."""

    __tablename__ = "access_audit"
    __table_args__ = (sa.Index(None, "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    token_id: Mapped[int | None]  # None: a person at the command line
    who: Mapped[str]  # the token's name then
    action: Mapped[str]  # label.add, scan.delete, token.create, ...
    subject: Mapped[str]  # what it was done to: an id or a uri
    detail: Mapped[dict[str, Any] | None]
    address: Mapped[str | None]  # of the client
