"""The pages of review: which queues there are, and a queue's images one by one."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response

from scanfleet.checks.check import Check
from scanfleet.db.engine import reading
from scanfleet.db.review.miss_rate import miss_rate
from scanfleet.db.review.queues import QUEUES
from scanfleet.producer.scans.session import find_check, known_checks
from scanfleet.serve.access.guard import Reviewer
from scanfleet.serve.context import Serving, ServingDep
from scanfleet.serve.pages.layout import NAVIGATION, Entry, render
from scanfleet.serve.problems import ProblemError

NAVIGATION.append(Entry("Review", "/review", "review"))
router = APIRouter(include_in_schema=False)
ABOUT = {
    "flagged": "What was flagged, the surest first",
    "uncertain": "The nearest to a threshold first",
    "disagree": "Two adapters differ, the most first",
    "audit": "Unflagged images at random, the answer hidden",
}


@router.get("/review")
def queues(request: Request, serving: ServingDep, actor: Reviewer) -> Response:
    return render(request, "review_queues.html", checks=known_checks(serving.engine), about=ABOUT)


@router.get("/review/{check_name}/{queue}")
def queue_page(request: Request, serving: ServingDep, actor: Reviewer, check_name: str, queue: str) -> Response:
    check = find_named(serving, check_name)
    require_queue(queue)
    audited = None
    if queue == "audit":
        with reading(serving.engine) as connection:
            audited = miss_rate(connection, check.name, flags=check.flags)
    page = secrets.token_hex(8)  # names this load of the page, if its tab has no name yet
    return render(request, "review.html", check=check, queue=queue, queues=ABOUT, audited=audited, page=page)


def find_named(serving: Serving, name: str) -> Check:
    """Return a check of the ledger. Raises UnknownName; a file of the server is never read."""
    if "/" in name or name.endswith(".toml"):
        raise ProblemError(404, "unknown-name", "a check is named, not a file")
    return find_check(serving.engine, name)


def require_queue(name: str) -> None:
    if name not in QUEUES:
        raise ProblemError(404, "unknown-name", f"no queue {name!r}: there are {', '.join(QUEUES)}")
