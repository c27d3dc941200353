"""`/v1/results`: answers and failures, with the filters of `scanfleet results ls`, page by page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from scanfleet.db.results.results import iter_results
from scanfleet.producer.cli.queries.filters import resolve_filter
from scanfleet.serve.access.guard import Reader
from scanfleet.serve.context import ServingDep
from scanfleet.serve.v1.answers import record_of

router = APIRouter(prefix="/v1", tags=["results"])


class ResultQuery(BaseModel):
    """Several values of one filter: any of them."""

    model_config = ConfigDict(extra="forbid")

    scan: list[str] = Field([], description="Ids of scans, or their first letters.", max_length=100)
    check: list[str] = Field([], max_length=100)
    model: list[str] = Field([], max_length=100)
    state: list[Literal["pending", "verdict", "failed", "cancelled"]] = []
    decision: list[Literal["clear", "review", "flag"]] = []
    label: list[str] = Field([], max_length=100)
    adapter: list[str] = Field([], description="Ids, first letters of a SHA-256, or none.", max_length=100)
    reason: list[str] = Field([], description="Why an image failed.", max_length=100)
    prefix: str | None = Field(None, description="Of the uri.")
    where: list[str] = Field([], description="COLUMN=VALUE of the manifest.", max_length=20)
    min_score: float | None = None
    max_score: float | None = None
    since: AwareDatetime | None = Field(None, description="Whose answer or state changed since then.")
    as_of: AwareDatetime | None = Field(None, description="What was said at that time.")
    limit: int = Field(100, ge=1, le=1000)
    after: int = Field(0, ge=0, lt=2**63, description="`next` of the page before.")


@router.get("/results", summary="Answers and failures, one per image")
def list_results(serving: ServingDep, actor: Reader, query: Annotated[ResultQuery, Query()]) -> dict[str, Any]:
    """The oldest image first. `next` is null on the last page; else ask again with `after` = `next`."""
    given = query.model_dump(exclude={"limit", "after"})
    wanted = resolve_filter(serving.engine, given)
    page = list(iter_results(serving.engine, wanted, limit=query.limit, after=query.after))
    following = page[-1].image_id if len(page) == query.limit else None
    return {"data": [record_of(result, serving.settings) for result in page], "next": following}
