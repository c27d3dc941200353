"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from scanfleet.config.diagnosis import check_broker
from scanfleet.db.schema import check_schema
from scanfleet.errors import ScanfleetError
from scanfleet.redaction import redact
from scanfleet.serve.access.guard import open_to_all
from scanfleet.serve.context import ServingDep
from scanfleet.serve.problems import ProblemError

router = APIRouter(tags=["health"], dependencies=[Depends(open_to_all)])


@router.get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Database, its schema and the broker answer")
def readyz(serving: ServingDep) -> dict[str, Any]:
    """503 with what is wrong, so that a load balancer sends requests elsewhere."""
    try:
        revision = check_schema(serving.engine)
        check_broker(serving.celery)
    except ScanfleetError as error:
        raise ProblemError(503, "not-ready", redact(" ".join(str(error).split()))) from None
    return {"status": "ready", "schema": revision}
