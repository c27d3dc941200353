"""Who asks, and whether they may. Every route has a scope, or says that it is open to all."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from scanfleet.db.access import audit
from scanfleet.db.access.sessions import find_session
from scanfleet.db.access.tokens import TokenInfo, find_token
from scanfleet.db.engine import reading
from scanfleet.serve.access import csrf
from scanfleet.serve.access.rates import Rate
from scanfleet.serve.context import Serving, serving_of
from scanfleet.serve.problems import ProblemError

COOKIE = "scanfleet_session"
FAILURES_PER_MINUTE = 10.0  # of one address: wrong tokens, at /login and as headers
MAX_SECRET = 200  # characters


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who asks: a token, by itself or through a browser's session."""

    name: str
    token_id: int
    scopes: tuple[str, ...]
    address: str
    session: str | None  # the secret of the session; None: the token itself came along

    def record(
        self, connection: sa.Connection, *, action: str, subject: str, detail: dict[str, Any] | None = None
    ) -> None:
        """Add the row of the audit, in the transaction of what it records."""
        audit.record(
            connection,
            who=self.name,
            token_id=self.token_id,
            address=self.address,
            action=action,
            subject=subject,
            detail=detail,
        )


class LimitsOfAccess:
    """The counts of one process."""

    def __init__(self, requests_per_minute: int) -> None:
        self.requests = Rate(requests_per_minute)
        self.failures = Rate(FAILURES_PER_MINUTE)


def address_of(request: Request) -> str:
    """Return the client's address, behind a proxy the one that it reports (uvicorn trusts the proxy's host only)."""
    return request.client.host if request.client else "unknown"


def requires(scope: str) -> Callable[[Request], Awaitable[Actor]]:
    """Return the dependency of routes that need a scope."""

    async def guard(request: Request) -> Actor:
        actor = await actor_of(request)
        if actor is None:
            raise _unknown(request)
        if scope not in actor.scopes:
            raise ProblemError(403, "scope-missing", f"the token {actor.name} has no scope {scope!r}")
        if actor.session is not None:
            await require_no_forgery(request, actor.session)
        seconds = request.app.state.limits.requests.take(str(actor.token_id))
        if seconds:
            raise too_many("requests of this token", seconds)
        return actor

    guard.scope = scope  # type: ignore[attr-defined]
    return guard


async def open_to_all() -> None:
    """Mark a route that needs no token."""


async def actor_of(request: Request) -> Actor | None:
    """Return who asks; None if nobody valid does. Looked up once a request."""
    if not hasattr(request.state, "actor"):
        request.state.actor = await run_in_threadpool(_look_up, request)
    found: Actor | None = request.state.actor
    return found


def _look_up(request: Request) -> Actor | None:
    serving, header = serving_of(request), request.headers.get("authorization")
    if header is not None:
        kind, _, secret = header.partition(" ")
        token = check_token(request, serving, secret.strip()) if kind.lower() == "bearer" else None
        return None if token is None else _actor(request, token, None)
    session = request.cookies.get(COOKIE)
    if session is None or len(session) > MAX_SECRET:
        return None
    with reading(serving.engine) as connection:
        token = find_session(connection, session)
    return None if token is None else _actor(request, token, session)


def check_token(request: Request, serving: Serving, secret: str) -> TokenInfo | None:
    """Return the token of a secret. Wrong ones count against the address. Raises ProblemError (429)."""
    failures, address = request.app.state.limits.failures, address_of(request)
    seconds = failures.wait(address)
    if seconds:
        raise too_many("wrong tokens from this address", seconds)
    found = None
    if len(secret) <= MAX_SECRET:
        with reading(serving.engine) as connection:
            found = find_token(connection, secret)
    if found is None:
        failures.take(address)
    return found


def too_many(what: str, seconds: float) -> ProblemError:
    wait = str(math.ceil(seconds))
    return ProblemError(429, "too-many", f"too many {what}: wait {wait} s", headers={"Retry-After": wait})


def _actor(request: Request, token: TokenInfo, session: str | None) -> Actor:
    return Actor(name=token.name, token_id=token.id, scopes=token.scopes, address=address_of(request), session=session)


def _unknown(request: Request) -> ProblemError:
    if not request.url.path.startswith("/v1/") and request.method in csrf.SAFE:
        return ProblemError(303, "log-in", "log in first", headers={"Location": f"/login?next={request.url.path}"})
    headers = {"WWW-Authenticate": 'Bearer realm="scanfleet"'}
    return ProblemError(401, "token-needed", "no valid token: send Authorization: Bearer TOKEN", headers=headers)


async def require_no_forgery(request: Request, session: str) -> None:
    if request.method in csrf.SAFE:
        return
    given = request.headers.get(csrf.HEADER)
    if given is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        field = (await request.form()).get(csrf.FIELD)
        given = field if isinstance(field, str) else None
    if not csrf.fits(session, given):
        raise ProblemError(403, "forged", "the page is no longer current: load it again")


Reader = Annotated[Actor, Depends(requires("read"))]
Scorer = Annotated[Actor, Depends(requires("score"))]
Reviewer = Annotated[Actor, Depends(requires("review"))]
Admin = Annotated[Actor, Depends(requires("admin"))]
