"""What the page of a queue asks for: the next images, a decision, a skip, an undo, a picture."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.history import LabelFilter, undo_labels
from scanfleet.db.queries.listing import in_order
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result
from scanfleet.db.review import leases
from scanfleet.db.review.queues import LEASE, take
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Label
from scanfleet.producer.labels.deciding import decide
from scanfleet.serve.access.guard import Actor, Reviewer
from scanfleet.serve.context import Serving, ServingDep
from scanfleet.serve.pages.review.items import item
from scanfleet.serve.pages.review.pages import find_named, require_queue
from scanfleet.serve.problems import ProblemError
from scanfleet.serve.thumbnails import EDGES

router = APIRouter(include_in_schema=False)
Tab = Annotated[str, Field(pattern="^[0-9a-f]{16}$", description="Names one open page.")]
Content = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
KEPT = {"cache-control": "private, max-age=86400, immutable"}  # a picture's address names its bytes


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tab: Tab
    n: Annotated[int, Field(ge=1, le=50)] = 10
    have: Annotated[list[Content], Field(max_length=200)] = []


class Skipped(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tab: Tab
    content: Content


class Decided(Skipped):
    """boxes: `x0 y0 x1 y1` in pixels of the upright image."""

    image_id: Annotated[int, Field(ge=1, lt=2**63)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    boxes: list[Annotated[str, Field(max_length=300)]] = Field([], max_length=200)


class Undone(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tab: Tab
    label_id: Annotated[int, Field(ge=1, lt=2**63)]


@router.post("/review/{check_name}/{queue}/take")
def take_next(serving: ServingDep, actor: Reviewer, check_name: str, queue: str, asked: Asked) -> dict[str, Any]:
    check = find_named(serving, check_name)
    require_queue(queue)
    with transaction(serving.engine) as connection:
        found = take(connection, check.name, queue, holder=_holder(actor, asked.tab), n=asked.n, have=asked.have)
    return {"items": [item(each, check, serving.settings, hidden=queue == "audit") for each in found]}


@router.post("/review/{check_name}/{queue}/decide")
def decide_one(serving: ServingDep, actor: Reviewer, check_name: str, queue: str, given: Decided) -> dict[str, int]:
    """Adding it again adds nothing: the browser repeats what it has no answer for."""
    check = find_named(serving, check_name)
    require_queue(queue)
    shown = _answer(serving, given.image_id)
    label_id = decide(
        serving.engine,
        serving.settings,
        check_name=check.name,
        image=NewImage(uri=shown.uri, root=shown.root, etag=shown.etag),
        content_sha256=given.content,
        label=given.label,
        boxes=given.boxes,
        who=actor.name,
        drawn=queue,
    )
    with transaction(serving.engine) as connection:
        leases.release(connection, check.name, given.content, holder=_holder(actor, given.tab))
        detail = {"check": check.name, "label": given.label, "queue": queue, "label_id": label_id}
        actor.record(connection, action="label.add", subject=shown.uri, detail=detail)
    return {"label_id": label_id}


@router.post("/review/{check_name}/{queue}/skip", status_code=204)
def skip_one(serving: ServingDep, actor: Reviewer, check_name: str, queue: str, given: Skipped) -> Response:
    check = find_named(serving, check_name)
    require_queue(queue)
    with transaction(serving.engine) as connection:
        leases.skip(connection, check.name, given.content, holder=_holder(actor, given.tab))
    return Response(status_code=204)


@router.post("/review/undo")
def undo_one(serving: ServingDep, actor: Reviewer, given: Undone) -> dict[str, int]:
    """Undo a label of one's own, with a row that says so, and lease its image again. Twice is once."""
    with transaction(serving.engine) as connection:
        mine = sa.select(Label.uri, Label.check_name, Label.content_sha256).where(
            Label.id == given.label_id, Label.who == actor.name
        )
        label = connection.execute(mine).first()
        if label is None:
            raise ProblemError(404, "unknown-name", f"{actor.name} gave no label {given.label_id}")
        n = undo_labels(connection, LabelFilter(ids=[given.label_id]), who=actor.name)
        if n:
            detail = {"check": label.check_name, "label_id": given.label_id}
            contents, holder = [label.content_sha256], _holder(actor, given.tab)
            leases.take(connection, label.check_name, contents, holder=holder, lasts=LEASE)
            actor.record(connection, action="label.undo", subject=label.uri or "", detail=detail)
    return {"undone": n}


@router.get("/thumbs/{image_id}/{edge}")
def picture(
    serving: ServingDep, actor: Reviewer, image_id: int, edge: int, of: Annotated[str, Query(max_length=16)] = ""
) -> Response:
    """`of` changes with the bytes, so that a browser keeps no picture of others."""
    if edge not in EDGES:
        raise ProblemError(404, "unknown-name", f"pictures have edges of {' or '.join(map(str, EDGES))} pixels")
    return Response(serving.thumbnails.get(_answer(serving, image_id), edge), media_type="image/webp", headers=KEPT)


def _answer(serving: Serving, image_id: int) -> Result:
    with reading(serving.engine) as connection:
        found = in_order(connection, ResultFilter(rescans=True), [image_id])
    if not found or found[0].content_sha256 is None:
        raise ProblemError(404, "unknown-name", f"no answer for image {image_id}")
    return found[0]


def _holder(actor: Actor, tab: str) -> str:
    return f"{actor.token_id}:{tab}"
