"""The application: routes, headers, errors."""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from scanfleet.serve import health, pages, problems, v1
from scanfleet.serve.access.guard import LimitsOfAccess
from scanfleet.serve.access.routes import scopes_of
from scanfleet.serve.context import Serving
from scanfleet.serve.headers import SafeHeaders
from scanfleet.serve.limits import BodyLimit

ABOUT = """Verdicts of a vision-language model for images, through the same queue and scorer as bulk scans.

Every request but those of health needs a token: `Authorization: Bearer TOKEN` (`scanfleet token create`)."""
PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": problems.Problem} for code in (401, 403, 422, 429, 503)}


def make_app(serving: Serving) -> FastAPI:
    """Return the application. Raises RuntimeError for a route without a scope."""
    app = FastAPI(
        title="scanfleet",
        version=metadata.version("scanfleet"),
        description=ABOUT,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        default_response_class=JSONResponse,
        responses=PROBLEMS,
    )
    app.state.serving = serving
    app.state.limits = LimitsOfAccess(serving.settings.serve_requests_per_minute)
    for router in (health.router, *v1.ROUTERS, *pages.ROUTERS):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=str(resources.files("scanfleet.serve") / "static")))
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=serving.settings.max_image_bytes)
    app.add_middleware(SafeHeaders)
    scopes_of(app)
    return app
