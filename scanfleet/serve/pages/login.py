"""Logging in with a token, and out."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from scanfleet.db.access.sessions import begin_session, end_session
from scanfleet.db.engine import transaction
from scanfleet.serve.access.guard import COOKIE, actor_of, check_token, open_to_all, require_no_forgery
from scanfleet.serve.context import ServingDep
from scanfleet.serve.pages.layout import NAVIGATION, render

router = APIRouter(include_in_schema=False, dependencies=[Depends(open_to_all)])


@router.get("/")
async def start(request: Request) -> Response:
    actor = await actor_of(request)
    if actor is None:
        return RedirectResponse("/login", 303)
    mine = [entry.path for entry in NAVIGATION if entry.scope in actor.scopes]
    return RedirectResponse(mine[0], 303) if mine else render(request, "start.html")


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    return render(request, "login.html", next=_local(next), problem=None)


@router.post("/login")
def login(
    request: Request, serving: ServingDep, token: Annotated[str, Form()], next: Annotated[str, Form()] = "/"
) -> Response:
    """Begin a session. A form of another site can only log in with a token that it knows: nothing to forge."""
    found = check_token(request, serving, token.strip())
    if found is None:
        request.state.actor = None
        wrong = "this token is wrong, has ended or was revoked"
        return render(request, "login.html", status=401, next=_local(next), problem=wrong)
    lasts = timedelta(hours=serving.settings.serve_session_hours)
    with transaction(serving.engine) as connection:
        secret = begin_session(connection, found, lasts=lasts)
    answer = RedirectResponse(_local(next), 303)
    secure = request.url.scheme == "https"
    seconds = int(lasts.total_seconds())
    answer.set_cookie(COOKIE, secret, max_age=seconds, httponly=True, samesite="lax", secure=secure, path="/")
    return answer


@router.post("/logout")
async def logout(request: Request, serving: ServingDep) -> Response:
    """End the session. Its CSRF token is checked as everywhere."""
    actor = await actor_of(request)
    if actor is None or actor.session is None:
        return RedirectResponse("/login", 303)
    await require_no_forgery(request, actor.session)
    with transaction(serving.engine) as connection:
        end_session(connection, actor.session)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
    return answer


def _local(path: str) -> str:
    """Return where to go afterwards: a path of this host, or the start."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and "\\" not in path
    return path if plain else "/"
