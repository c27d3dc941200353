"""Which scope each route has, read from its dependencies."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from scanfleet.serve.access.guard import open_to_all


def scopes_of(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """Return (method, path) -> scope; None: open to all. Raises RuntimeError for a route that says neither."""
    found = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                found[method, route.path] = _scope(route)
    return found


def _scope(route: APIRoute) -> str | None:
    calls = list(_calls(route.dependant))
    scopes = {call.scope for call in calls if hasattr(call, "scope")}
    if len(scopes) == 1:
        return str(scopes.pop())
    if not scopes and open_to_all in calls:
        return None
    raise RuntimeError(f"{route.path}: a route has one scope (serve.access.guard), or is open to all")


def _calls(dependant: Dependant) -> Iterator[object]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)
