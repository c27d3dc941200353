"""What all endpoints share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
from celery import Celery
from fastapi import Depends, Request

from scanfleet.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The ledger and queue of one server process."""

    settings: Settings
    engine: sa.Engine
    celery: Celery


def serving_of(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


ServingDep = Annotated[Serving, Depends(serving_of)]
