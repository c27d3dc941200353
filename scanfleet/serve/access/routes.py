"""Which scope each route has, read from its dependencies."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from scanfleet.serve.access.guard import open_to_all

PUBLIC = ("/openapi.json", "/static")  # files that say nothing of the ledger


def scopes_of(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """Return (method, path) -> scope; None: open to all. Raises RuntimeError for a route that says neither."""
    found: dict[tuple[str, str], str | None] = {}
    for route in iter_route_contexts(app.routes):
        path = str(route.path)
        if path in PUBLIC:
            continue
        scope = _scope(path, getattr(route, "dependant", None))
        found |= {(method, path): scope for method in route.methods or ()}
    return found


def _scope(path: str, dependant: Dependant | None) -> str | None:
    calls = [] if dependant is None else list(_calls(dependant))
    scopes = {call.scope for call in calls if hasattr(call, "scope")}
    if len(scopes) == 1:
        return str(scopes.pop())
    if not scopes and open_to_all in calls:
        return None
    raise RuntimeError(f"{path}: a route has one scope (serve.access.guard), or is open to all")


def _calls(dependant: Dependant) -> Iterator[object]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)
