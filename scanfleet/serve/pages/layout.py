"""What every page has around it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from scanfleet.serve.access.csrf import csrf_token


class Entry(NamedTuple):
    """A line of the navigation; those without the scope do not see it."""

    label: str
    path: str
    scope: str


NAVIGATION: list[Entry] = []


def render(request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page of a template. `actor` is None where nobody has logged in."""
    actor = getattr(request.state, "actor", None)
    session = None if actor is None else actor.session
    about = {
        "actor": actor,
        "csrf_token": "" if session is None else csrf_token(session),
        "navigation": [entry for entry in NAVIGATION if actor is not None and entry.scope in actor.scopes],
        "path": request.url.path,
    }
    return HTMLResponse(_environment().get_template(name).render(about | values), status)


@cache
def _environment() -> Environment:
    loader = PackageLoader("scanfleet.serve", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
