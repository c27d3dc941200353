"""What all endpoints share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import sqlalchemy as sa
from celery import Celery
from fastapi import Depends, Request

from scanfleet.config.settings import Settings
from scanfleet.serve.thumbnails import Thumbnails
from scanfleet.serve.waiting import Waiter


@dataclass(kw_only=True)
class Serving:
    """The ledger and queue of one server process."""

    settings: Settings
    engine: sa.Engine
    celery: Celery

    @cached_property
    def waiter(self) -> Waiter:
        return Waiter(self.engine)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        return Thumbnails(self.settings)


def serving_of(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


ServingDep = Annotated[Serving, Depends(serving_of)]
