"""`/v1/labels`: what people say about images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.history import LabelFilter, iter_labels
from scanfleet.db.tables import Image
from scanfleet.producer.labels.adding import add_one
from scanfleet.serve.access.guard import Reader, Reviewer
from scanfleet.serve.context import Serving, ServingDep
from scanfleet.serve.problems import ProblemError
from scanfleet.serve.sources import allowed_image
from scanfleet.serve.uploads import shown

router = APIRouter(prefix="/v1/labels", tags=["labels"])
Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewLabel(BaseModel):
    """A label of one image. `who` is the token's name."""

    model_config = ConfigDict(extra="forbid")

    uri: Annotated[str, Field(min_length=1, max_length=4096, description="Of an image of a scan, or an allowed one.")]
    check: Name
    label: Name
    boxes: list[Annotated[str, Field(max_length=300)]] = Field([], max_length=200, examples=[["10 20 90 60"]])
    settle: bool = Field(False, description="Ends a conflict between people.")
    note: str | None = Field(None, max_length=2000)


@router.post("", summary="Label one image", status_code=201)
def add_label(serving: ServingDep, actor: Reviewer, new: NewLabel) -> dict[str, str]:
    """The image is read and decoded first, because a label belongs to bytes."""
    _require_known(serving, new)
    said = add_one(
        serving.engine,
        serving.settings,
        uri=new.uri,
        label=new.label,
        check_name=new.check,
        boxes=new.boxes,
        who=actor.name,
        settle=new.settle,
        group=None,
        remark=new.note,
    )
    with transaction(serving.engine) as connection:
        detail = {"check": new.check, "label": new.label, "boxes": new.boxes, "settle": new.settle}
        actor.record(connection, action="label.add", subject=new.uri, detail=detail)
    return {"message": said}


def _require_known(serving: Serving, new: NewLabel) -> None:
    if "/" in new.check or new.check.endswith(".toml"):
        raise ProblemError(422, "invalid", "check: a name, no file of the server")
    with reading(serving.engine) as connection:
        known = connection.execute(sa.select(Image.id).where(Image.uri == new.uri).limit(1)).first()
    if known is None:
        allowed_image(new.uri, serving.settings)


@router.get("", summary="Labels with their state, the newest first")
def list_labels(
    serving: ServingDep,
    actor: Reader,
    check: str | None = None,
    label: str | None = None,
    who: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    wanted = LabelFilter(check_name=check, label=label, who=who)
    found = iter_labels(serving.engine, wanted, limit=limit)
    return {"data": [asdict(line) | {"uri": shown(line.uri, serving.settings)} for line in found]}
