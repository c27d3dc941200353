"""Unlabelled images on which two scorers disagree.

A disagreement is found by joining the answers of two scorers. In a large archive that is done for a random slice of its
contents, which grows until it has enough of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.labels.suggest import DIGESTS, Pool, current_verdicts, scorer_of
from scanfleet.db.tables import Verdict

MAX_RIVALS = 3  # other scorers that an answer is compared with
LEAST_GAP = 0.2  # of calibrated probabilities: a disagreement although decisions agree
SLICE = 50_000  # answers of the first slice: both databases join so many in about a tenth of a second
GROWTH = 8  # of each further slice

Disputes = dict[str, tuple[int, float]]  # content -> kind, gap
Where = Sequence[sa.ColumnElement[bool]]


def disagreements(connection: sa.Connection, pool: Pool, *, pivot: str, n: int) -> list[str]:
    """Return at most `n` contents on which two scorers disagree, the largest disagreement first.

    First come a flag against a clear, then other decisions that differ, then the gap of calibrated probabilities.
    Margins are never compared: two scorers' logits have no common scale.

    pivot: hexadecimal. Of more than SLICE answers, those of contents from there on are compared, until there are n.
    """
    found: Disputes = {}
    for part in _slices(pool, pivot):
        found = _in_slice(connection, pool, part, n)
        if len(found) >= n:
            break
    return sorted(found, key=lambda image: (*(-each for each in found[image]), image))[:n]


def _slices(pool: Pool, pivot: str) -> Iterator[Where]:
    """Yield slices of the contents, each with more of them; the last one is everything.

    Contents are SHA-256 digests, evenly spread: an equal distance has an equal share of them.
    """
    content, answers = Verdict.content_sha256, SLICE
    while answers < pool.n_answers:
        start = int(pivot, 16)
        end = f"{(start + DIGESTS * answers // pool.n_answers) % DIGESTS:064x}"
        around = sa.and_ if pivot <= end else sa.or_  # or: it goes on at the lowest digest
        yield (around(content >= pivot, content < end),)
        answers *= GROWTH
    yield ()


def _in_slice(connection: sa.Connection, pool: Pool, part: Where, n: int) -> Disputes:
    found: Disputes = {}
    for clear in (False, True):
        for scorer in pool.scorers:
            others = [other for other in pool.scorers if other < scorer][:MAX_RIVALS]
            if others:
                for image, rank in _disputes(connection, pool, part, scorer, others, n, clear=clear):
                    found[image] = max(rank, found.get(image, (0, 0.0)))
        if sum(kind > 0 for kind, _ in found.values()) >= n:
            break  # decisions that differ come before gaps
    return found


def _disputes(
    connection: sa.Connection, pool: Pool, part: Where, scorer: int, others: Sequence[int], n: int, *, clear: bool
) -> list[tuple[str, tuple[int, float]]]:
    """Return (content, (kind, gap)) where a current answer differs from an earlier scorer's.

    clear: where the decisions agree; else where they do not.
    """
    rival = aliased(Verdict)
    differ, apart = Verdict.decision != rival.decision, sa.func.abs(Verdict.score - rival.score)
    opposed = sa.and_(differ, *(each.decision.in_(("flag", "clear")) for each in (Verdict, rival)))
    kind = sa.func.max(sa.case((opposed, 2), (differ, 1), else_=0)).label("kind")
    gap = sa.func.max(sa.func.coalesce(apart, 0.0)).label("gap")
    unclear = Verdict.decision != "clear"
    if clear:
        ways = [sa.and_(~differ, apart >= LEAST_GAP)]
    else:  # an index has the few that are not clear, on this side or on the other
        ways = [sa.and_(unclear, differ), sa.and_(Verdict.decision == "clear", rival.decision != "clear")]
    each: sa.Select[Any] = (
        current_verdicts(pool, Verdict.content_sha256, kind, gap)
        .join(rival, rival.content_sha256 == Verdict.content_sha256)
        .where(scorer_of(pool) == scorer, rival.scorer_id.in_(others), *part)
        .group_by(Verdict.content_sha256)
        .order_by(sa.desc("kind"), sa.desc("gap"), Verdict.content_sha256)
        .limit(n)
    )
    found: Disputes = {}
    for way in ways:
        for row in connection.execute(each.where(way)):
            found[row.content_sha256] = max((row.kind, row.gap), found.get(row.content_sha256, (0, 0.0)))
    return list(found.items())
