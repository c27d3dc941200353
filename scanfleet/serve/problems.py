"""Errors of one shape: RFC 9457 problem+json for programs, a page for people. Neither has a secret or a trace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from scanfleet.errors import (
    AccessDenied,
    ImageError,
    RequestError,
    Retryable,
    ScanfleetError,
    SourceNotFound,
    UnknownName,
)
from scanfleet.redaction import redact

log = structlog.get_logger()
RETRY_SECONDS = 5  # what Retry-After says of a transient error


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="A short stable word to test for, as a relative address.", examples=["unknown-name"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What is wrong and what to do.", examples=["no scan 'k7m2'"])


class ProblemError(Exception):
    """An answer that is an error. more: further members of the body."""

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers, self.more = status, kind, detail, dict(headers or {}), more


_STATUS: tuple[tuple[type[ScanfleetError], int, str], ...] = (  # the first that fits
    (UnknownName, 404, "unknown-name"),
    (SourceNotFound, 404, "source-not-found"),
    (AccessDenied, 403, "source-refused"),
    (ImageError, 422, "image-failed"),
    (RequestError, 422, "bad-request"),
    (Retryable, 503, "unavailable"),
)


def install(app: FastAPI) -> None:
    """Answer every error as a problem, or as a page where a page was asked for."""
    app.add_exception_handler(ProblemError, _of_problem)
    app.add_exception_handler(ScanfleetError, _of_ours)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(Exception, _unexpected)


def translated(error: ScanfleetError) -> ProblemError:
    """Return the answer for an error of ours."""
    for kind, status, word in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            return ProblemError(status, word, redact(" ".join(str(error).split())), headers=headers)
    return ProblemError(500, "unexpected", type(error).__name__)


def answer(request: Request, error: ProblemError) -> Response:
    title = HTTPStatus(error.status).phrase
    if not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", ""):
        from scanfleet.serve.pages import render

        page = render(request, "error.html", status=error.status, heading=title, detail=error.detail)
        page.headers.update(error.headers)
        return page
    body = {"type": error.kind, "title": title, "status": error.status, "detail": error.detail, **error.more}
    return JSONResponse(body, error.status, error.headers, media_type="application/problem+json")


def _of_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return answer(request, error)


def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ScanfleetError)
    return answer(request, translated(error))


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return answer(request, ProblemError(error.status_code, kind, str(error.detail), headers=error.headers))


def _of_validation(request: Request, error: Exception) -> Response:
    """Say where and what, without what was sent: it may be an image, or a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)
    faults = [{"at": ".".join(map(str, each["loc"])), "problem": each["msg"]} for each in error.errors()]
    detail = "; ".join(f"{fault['at']}: {fault['problem']}" for fault in faults[:5])
    return answer(request, ProblemError(422, "invalid", detail, faults=faults))


def _unexpected(request: Request, error: Exception) -> Response:
    incident = uuid.uuid4().hex[:12]
    log.error("request_failed", incident=incident, error=type(error).__name__, detail=redact(str(error))[:300])
    return answer(request, ProblemError(500, "unexpected", f"an error of the server: its log has {incident}"))
