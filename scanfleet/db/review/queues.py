"""What people are asked about, queue by queue. Each returns contents without a counting label, by their bytes.

The queries are those of label suggestions: each begins where its result lies, whatever the size of the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from secrets import token_hex

import sqlalchemy as sa

from scanfleet.db.labels import suggest
from scanfleet.db.labels.disagreements import disagreements
from scanfleet.db.labels.suggest import Pool
from scanfleet.db.queries.listing import in_order
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result
from scanfleet.db.review import leases
from scanfleet.db.tables import Verdict

LEASE = timedelta(minutes=10)


def flagged(connection: sa.Connection, pool: Pool, n: int) -> list[str]:
    """Flags, the newest scorer's first, and of each scorer those of the highest margin."""
    found: dict[str, None] = {}
    content = Verdict.content_sha256
    for scorer in pool.scorers:
        query = suggest.current_verdicts(pool, content).where(suggest.scorer_of(pool) == scorer)
        query = query.where(Verdict.decision == "flag").order_by(Verdict.margin.desc(), Verdict.id)
        size = n  # a content may have several names: those count once
        while len(found) < n:
            rows = connection.execute(query.limit(size)).scalars().all()
            found |= dict.fromkeys(rows)
            if len(rows) < size:
                break
            size *= 4
        if len(found) >= n:
            break
    return list(found)[:n]


def audit(connection: sa.Connection, pool: Pool, n: int) -> list[str]:
    """Unflagged images at random. Contents are digests: those behind a random point are a simple random sample."""
    size = n
    while True:
        contents = suggest.at_random(connection, pool, pivot=token_hex(32), n=size)
        answers = suggest.candidates(connection, pool, contents)
        clear = [each for each in contents if answers[each].decision == "clear"]
        if len(clear) >= n or len(contents) < size:
            return clear[:n]
        size *= 4


def uncertain(connection: sa.Connection, pool: Pool, n: int) -> list[str]:
    """The nearest to a threshold first."""
    return suggest.near_boundary(connection, pool, n=n)


def disagree(connection: sa.Connection, pool: Pool, n: int) -> list[str]:
    """Answers of two scorers that differ, the largest difference first."""
    return disagreements(connection, pool, pivot=token_hex(32), n=n)


QUEUES: dict[str, Callable[[sa.Connection, Pool, int], list[str]]] = {
    "flagged": flagged,
    "uncertain": uncertain,
    "disagree": disagree,
    "audit": audit,
}


def take(
    connection: sa.Connection,
    check_name: str,
    queue: str,
    *,
    holder: str,
    n: int,
    have: Collection[str] = (),
    lasts: timedelta = LEASE,
) -> list[Result]:
    """Lease the next images of a queue and return their answers. have: contents that the holder's page has already.

    Fewer than `n`: no more are free now, or others took some at the same moment.
    """
    pool = suggest.pool_of(connection, check_name, scan_id=None)
    barred = leases.taken_from(connection, check_name, holder=holder) | set(have)
    contents = [each for each in QUEUES[queue](connection, pool, n + len(barred)) if each not in barred][:n]
    return _answers(connection, pool, leases.take(connection, check_name, contents, holder=holder, lasts=lasts))


def _answers(connection: sa.Connection, pool: Pool, contents: list[str]) -> list[Result]:
    chosen = suggest.candidates(connection, pool, contents)
    verdicts = [chosen[each].verdict_id for each in contents if each in chosen]
    query = sa.select(Verdict.id, Verdict.image_id).where(Verdict.id.in_(verdicts))
    images = {row.id: row.image_id for row in connection.execute(query)}
    return in_order(connection, ResultFilter(rescans=True), [images[each] for each in verdicts])
