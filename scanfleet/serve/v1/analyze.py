"""`/v1/analyze` and `/v1/detect`: verdicts for one image, by the queue and the scorer of bulk scans."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from scanfleet.checks.check import Check
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.messages import score_queue
from scanfleet.producer.scans.request import Asked, ask, find_asked, open_batches
from scanfleet.producer.scans.session import find_check, missing_worker_hint
from scanfleet.serve.access.guard import Scorer
from scanfleet.serve.context import Serving, ServingDep
from scanfleet.serve.problems import ProblemError
from scanfleet.serve.v1.answers import record_of
from scanfleet.serve.v1.image_body import OPENAPI, Wanted, read_wanted

router = APIRouter(prefix="/v1", tags=["analyze"])
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "`verdicts`, one for each check"},
    202: {"description": "Not answered yet: ask again at the header Location"},
    413: {"description": "Too many bytes"},
    415: {"description": "Neither a form nor JSON"},
}
Seconds = Annotated[float | None, Query(ge=0, le=600, description="How long to wait; default: the server's setting.")]


@router.post("/analyze", summary="Verdicts of checks for one image", openapi_extra=OPENAPI, responses=ANSWERS)
async def analyze(request: Request, serving: ServingDep, actor: Scorer, wait: Seconds = None) -> Response:
    """Ask one or several checks about one image.

    200 has a verdict of each check. 202: it takes longer; the request stays in the queue. 422: the image cannot be
    scored, with stage and reason. 503: no worker, store or broker serves it now; it stays in the queue as well.
    """
    return await _answer(request, serving, wait, boxes=False)


@router.post("/detect", summary="Boxes of what is flagged", openapi_extra=OPENAPI, responses=ANSWERS)
async def detect(request: Request, serving: ServingDep, actor: Scorer, wait: Seconds = None) -> Response:
    """As /v1/analyze, for checks that ask for boxes. An image that is not flagged has none."""
    return await _answer(request, serving, wait, boxes=True)


@router.get("/analyze/{request_id}", summary="The answer of an earlier request", responses=ANSWERS)
async def again(request_id: str, serving: ServingDep, actor: Scorer, wait: Seconds = None) -> Response:
    asked = await run_in_threadpool(find_asked, serving.engine, request_id)
    return await _finished(asked, serving, wait)


async def _answer(request: Request, serving: Serving, wait: float | None, *, boxes: bool) -> Response:
    wanted = await read_wanted(request, serving.settings)
    asked = await run_in_threadpool(_ask, serving, wanted, boxes=boxes)
    return await _finished(asked, serving, wait)


def _ask(serving: Serving, wanted: Wanted, *, boxes: bool) -> Asked:
    checks = [find_check(serving.engine, name) for name in wanted.checks]
    if boxes:
        _require_boxes(checks)
    image = wanted.place(serving.settings)
    return ask(serving.engine, serving.celery, serving.settings, images=[image], checks=checks)


def _require_boxes(checks: list[Check]) -> None:
    for check in checks:
        if not check.boxes:
            raise ProblemError(422, "no-boxes", f"check {check.name} asks for no boxes: use /v1/analyze")


async def _finished(asked: Asked, serving: Serving, wait: float | None) -> Response:
    seconds = serving.settings.serve_wait_seconds if wait is None else wait
    settled = await serving.waiter.wait(asked.batches, seconds=seconds)
    if not settled:
        return await run_in_threadpool(_pending, asked, serving)
    return await run_in_threadpool(_verdicts, asked, serving)


def _pending(asked: Asked, serving: Serving) -> Response:
    """202, or 503 where somebody must do something first."""
    url, settings = f"/v1/analyze/{asked.id}", serving.settings
    waits = [why for why in open_batches(serving.engine, asked.batches).values() if why]
    reason = next(iter(waits), None) or missing_worker_hint(
        serving.engine, model=settings.model, queue=score_queue(settings.model)
    )
    if reason is not None:
        again = {"Location": url, "Retry-After": "5"}
        raise ProblemError(503, "not-served", f"the image stays in the queue: {reason}", headers=again, url=url)
    return JSONResponse({"id": asked.id, "status": "pending", "url": url}, 202, {"Location": url, "Retry-After": "1"})


def _verdicts(asked: Asked, serving: Serving) -> Response:
    found = list(iter_results(serving.engine, ResultFilter(scan=asked.scans)))
    found.sort(key=lambda result: asked.scans.index(result.scan))
    records = [record_of(result, serving.settings) for result in found]
    bad = next((result for result in found if result.state != "verdict"), None)
    if bad is not None or not found:
        raise _no_verdict(bad, asked, records)
    return JSONResponse({"id": asked.id, "status": "done", "verdicts": records})


def _no_verdict(bad: Result | None, asked: Asked, records: list[dict[str, Any]]) -> ProblemError:
    more: dict[str, Any] = {"id": asked.id, "verdicts": records}
    if bad is None or bad.failure is None:
        return ProblemError(410, "gone", "this request was cancelled, or its answer deleted", **more)
    failure = {"stage": bad.failure.stage, "reason": bad.failure.reason, "detail": bad.failure.detail}
    detail = f"the image cannot be scored: {bad.failure.stage}: {bad.failure.reason}: {bad.failure.detail}"
    return ProblemError(422, "image-failed", detail, failure=failure, **more)
