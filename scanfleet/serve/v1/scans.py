"""`/v1/scans`: begin, watch, pause, resume, cancel, retry and delete scans of archives."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Any

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import scans as ledger
from scanfleet.db.scans.retries import retry_failures
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.errors import ScanfleetError
from scanfleet.producer.deletion.scans import delete_scan, plan_deletion
from scanfleet.producer.scans.enqueue import Enqueued
from scanfleet.producer.scans.session import Request, Session
from scanfleet.producer.scans.wait import snapshot_of
from scanfleet.retry import retry_database
from scanfleet.serve.access.guard import Actor, Admin, Reader, Scorer
from scanfleet.serve.context import Serving, ServingDep
from scanfleet.serve.problems import ProblemError, translated
from scanfleet.serve.sources import allowed_source

log = structlog.get_logger()
router = APIRouter(prefix="/v1/scans", tags=["scans"])
LISTINGS = threading.BoundedSemaphore(4)  # at once, in one process
Glob = Annotated[str, Field(max_length=500)]


class NewScan(BaseModel):
    """An archive, and what to ask of its images."""

    model_config = ConfigDict(extra="forbid")

    sources: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        min_length=1, max_length=20, examples=[["s3://ads/2026/"]]
    )
    checks: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(["overlay"], min_length=1, max_length=16)
    include: list[Glob] = Field([], max_length=50)
    exclude: list[Glob] = Field([], max_length=50)
    limit: int | None = Field(None, ge=1, lt=2**31)
    fresh: bool = Field(False, description="A new scan even if the same one exists.")

    def request(self) -> Request:
        return Request(
            sources=tuple(self.sources),
            check_names=tuple(self.checks),
            model=None,
            include=tuple(self.include),
            exclude=tuple(self.exclude),
            limit=self.limit,
            sample=None,
            seed=0,
            fresh=self.fresh,
        )


@router.post("", summary="Begin a scan, or resume its listing", status_code=202)
def begin(serving: ServingDep, actor: Scorer, new: NewScan) -> dict[str, Any]:
    """The listing goes on after the answer. If the server ends meanwhile, the same request resumes it."""
    for source in new.sources:
        allowed_source(source, serving.settings)
    if any("/" in name or name.endswith(".toml") for name in new.checks):
        raise ProblemError(422, "invalid", "checks: names alone, no files of the server")
    if not LISTINGS.acquire(blocking=False):
        raise ProblemError(
            503, "busy", "other archives are being listed: try again later", headers={"Retry-After": "30"}
        )
    begun = threading.Event()
    try:
        session = Session(settings=serving.settings, engine=serving.engine, app=serving.celery)
        pages = session.enqueue(new.request())
        first = next(pages)
        with transaction(serving.engine) as connection:
            for scan in first.scans:
                actor.record(connection, action="scan.begin", subject=scan.id, detail={"sources": new.sources})
        threading.Thread(target=_go_on, args=(pages,), name="listing", daemon=True).start()
        begun.set()
    finally:
        if not begun.is_set():
            LISTINGS.release()
    return {"data": [_scan(scan, ledger.NOTHING) for scan in first.scans]}


def _go_on(pages: Iterator[Enqueued]) -> None:
    try:
        deque(pages, maxlen=0)
    except ScanfleetError as error:
        log.warning("listing_stopped", error=translated(error).detail)
    finally:
        LISTINGS.release()


@router.get("", summary="Scans, the newest first")
def list_scans(serving: ServingDep, actor: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    with reading(serving.engine, long=True) as connection:
        found = ledger.list_progress(connection, limit=limit)
    return {"data": [_scan(scan, done) for scan, done in found]}


@router.get("/{scan_id}", summary="One scan and its progress")
def show(serving: ServingDep, actor: Reader, scan_id: str) -> dict[str, Any]:
    now = snapshot_of(serving.engine, scan_id)
    return _scan(now.scan, now.progress)


@router.post("/{scan_id}/pause", summary="Hand out no further batch")
def pause(serving: ServingDep, actor: Scorer, scan_id: str) -> dict[str, Any]:
    return _changed(serving, actor, scan_id, "pause", ledger.pause)


@router.post("/{scan_id}/resume", summary="Go on with a paused scan")
def resume(serving: ServingDep, actor: Scorer, scan_id: str) -> dict[str, Any]:
    return _changed(serving, actor, scan_id, "resume", ledger.resume)


@router.post("/{scan_id}/cancel", summary="End a scan for good")
def cancel(serving: ServingDep, actor: Scorer, scan_id: str) -> dict[str, Any]:
    return _changed(serving, actor, scan_id, "cancel", ledger.cancel)


@router.post("/{scan_id}/retry", summary="Try failed images again")
def retry(serving: ServingDep, actor: Scorer, scan_id: str) -> dict[str, Any]:
    return _changed(serving, actor, scan_id, "retry", retry_failures)


@router.delete("/{scan_id}", summary="Delete a scan with its answers")
def delete(serving: ServingDep, actor: Admin, scan_id: str) -> dict[str, Any]:
    """Its rescans go with it. Labels and adapters stay."""
    doomed = plan_deletion(serving.engine, [scan_id], older_than=None)
    with transaction(serving.engine) as connection:
        for each in doomed:
            actor.record(connection, action="scan.delete", subject=each.scan.id)
    n_images = sum(page.n_images for each in doomed for page in delete_scan(serving.engine, each.scan.id))
    return {"deleted": [each.scan.id for each in doomed], "n_images": n_images}


def _changed(
    serving: Serving, actor: Actor, scan_id: str, name: str, change: Callable[[sa.Connection, str], object]
) -> dict[str, Any]:
    def attempt() -> str:
        with transaction(serving.engine, long=True) as connection:
            found = ledger.get_scan(connection, scan_id).id
            change(connection, found)
            actor.record(connection, action=f"scan.{name}", subject=found)
            return found

    return show(serving, actor, retry_database(attempt))


def _scan(scan: ScanInfo, done: Progress) -> dict[str, Any]:
    names = (
        "id",
        "check",
        "model",
        "sources",
        "filters",
        "state",
        "n_listed",
        "created_at",
        "finished_at",
        "rescan_of",
    )
    return {name: getattr(scan, name) for name in names} | {"progress": asdict(done) | {"n_pending": done.n_pending}}
