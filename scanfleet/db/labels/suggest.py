"""Unlabelled images, ordered by how useful a label would be.

Each query begins where its result lies: at a threshold, at a random point. `disagreements` has those of two scorers.

The pool of a check: contents with a current answer and without a counting label of that check. Each content is there
once, whatever its names, with its newest answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.pointers import is_answered_by
from scanfleet.db.tables import Batch, CheckRow, Image, Label, Scan, ScorerRow, Verdict
from scanfleet.db.tallies.scan_sums import kept_tally, summed_tally

CHUNK_ROWS = 500  # per statement
FEW = 20_000  # answers that are read rather than searched for
SPREAD = 2048  # contents that the size of a pool is estimated from: within 5 % in 19 of 20 cases
DIGESTS = 2**256


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An image to label, with its current answer. logits: one per label of the check."""

    content_sha256: str
    verdict_id: int
    scorer_id: int
    uri: str
    scan: str
    label: str
    decision: str
    score: float | None  # calibrated probability of a flag
    margin: float  # logits
    logits: tuple[float, ...]
    width: int | None  # pixels
    height: int | None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The images that may be suggested. scorers: of all versions of the check, the newest first. scans: None is all.

    n_answers: at most this many verdicts may be current answers of the pool.
    """

    check_name: str
    scorers: tuple[int, ...]
    boundaries: dict[int, tuple[float, ...]]  # scorer -> margins at which its decision changes
    scans: tuple[str, ...] | None
    n_answers: int

    @property
    def is_small(self) -> bool:
        """Whether to read all answers of its scans: they are too few to be met soon on the way from a threshold."""
        return self.scans is not None and self.n_answers <= FEW


def pool_of(connection: sa.Connection, check_name: str, *, scan_id: str | None) -> Pool:
    """Return the pool of a check. scan_id: only images of this scan and its rescans."""
    query = (
        sa.select(ScorerRow.id, ScorerRow.thresholds, ScorerRow.calibrator)
        .join(CheckRow, CheckRow.id == ScorerRow.check_id)
        .where(CheckRow.name == check_name)
        .order_by(ScorerRow.id.desc())
    )
    found = {row.id: _boundaries(row.thresholds, row.calibrator) for row in connection.execute(query)}
    scans = None
    if scan_id is not None:
        renewing = connection.execute(sa.select(Scan.id).where(Scan.rescan_of == scan_id)).scalars()
        scans = (scan_id, *renewing)
        present = _scorers_in(connection, scans)
        found = {scorer: edges for scorer, edges in found.items() if present is None or scorer in present}
    counted = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_verdicts), 0)).join(Scan, Scan.id == Batch.scan_id)
    if scans is None:
        counted = counted.join(CheckRow, CheckRow.id == Scan.check_id).where(CheckRow.name == check_name)
    else:
        counted = counted.where(Batch.scan_id.in_(scans))
    n_answers = int(connection.execute(counted).scalar_one())
    return Pool(check_name=check_name, scorers=tuple(found), boundaries=found, scans=scans, n_answers=n_answers)


def _scorers_in(connection: sa.Connection, scans: Sequence[str]) -> set[int] | None:
    """Return the scorers of current answers of these scans; None: their tallies do not tell."""
    found: set[int] = set()
    for scan in scans:
        tally = kept_tally(connection, scan)
        tally = summed_tally(connection, scan) if tally is None else tally
        if tally is None:
            return None
        found |= {int(name.split(" ", 1)[0]) for name in tally}
    return found


def _boundaries(thresholds: dict[str, Any] | None, calibrator: dict[str, Any] | None) -> tuple[float, ...]:
    """Return the margins at which a decision changes, as in `worker.scoring.decisions`."""
    certified = tuple(float(margin) for margin in (thresholds or {}).values() if margin is not None)
    if certified:
        return certified
    return (0.0,) if calibrator is None else (-calibrator["b"] / calibrator["a"],)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Contents of a pool. exact: False: estimated, since counting them would read every answer."""

    n: int
    exact: bool


def size_of(connection: sa.Connection, pool: Pool, *, pivot: str) -> Size:
    """Count the contents of a pool, or estimate them where there are more than FEW answers.

    Contents are SHA-256 digests, evenly spread: the distance from a random point to the k-th behind it tells their
    density, with a relative error of k ** -0.5 (k minimum values, Bar-Yossef et al. 2002).
    """
    if pool.n_answers > FEW:
        found = at_random(connection, pool, pivot=pivot, n=SPREAD)
        if len(found) == SPREAD:
            start = int(pivot, 16)
            distances = sorted((int(each, 16) - start) % DIGESTS for each in found)
            return Size(n=round((SPREAD - 1) * DIGESTS / distances[-1]), exact=False)
    query = current_verdicts(pool, sa.func.count(Verdict.content_sha256.distinct()))
    n = connection.execute(query.where(scorer_of(pool).in_(pool.scorers))).scalar_one()
    return Size(n=n, exact=True)


def at_random(connection: sa.Connection, pool: Pool, *, pivot: str, n: int) -> list[str]:
    """Return `n` contents sampled uniformly: the first ones from `pivot` (hexadecimal) on, cyclically.

    Contents are SHA-256 digests, which are random: those behind a random point are a simple random sample, found
    through an index whatever the size of the archive.
    """
    behind = _in_order(connection, pool, Verdict.content_sha256 >= pivot, n)
    return behind + _in_order(connection, pool, Verdict.content_sha256 < pivot, n - len(behind))


def _in_order(connection: sa.Connection, pool: Pool, where: sa.ColumnElement[bool], n: int) -> list[str]:
    found: set[str] = set()
    content = Verdict.content_sha256
    for scorer in pool.scorers if n else ():
        query = current_verdicts(pool, content).where(scorer_of(pool) == scorer, where)
        found.update(connection.execute(query.group_by(content).order_by(content).limit(n)).scalars())
    return sorted(found)[:n]


def near_boundary(connection: sa.Connection, pool: Pool, *, n: int) -> list[str]:
    """Return at most `n` contents, ordered by |margin - nearest boundary| of the scorer that answered last."""
    found: list[tuple[float, str, int]] = []
    content = Verdict.content_sha256
    for scorer, margins in pool.boundaries.items():
        away = _smallest([sa.func.abs(sa.func.min(Verdict.margin) - margin) for margin in margins])
        query = current_verdicts(pool, content, sa.func.max(Verdict.id).label("verdict"), away.label("away"))
        if not pool.is_small:
            query = query.where(content.in_(_beside(connection, pool, scorer, margins, n)))
        query = query.where(scorer_of(pool) == scorer).group_by(content).order_by("away", content).limit(n)
        found += [(row.away, row.content_sha256, row.verdict) for row in connection.execute(query)]
    newest = _newest(connection, pool, {image for _, image, _ in found})
    return [image for _, image, verdict in sorted(found) if newest[image] == verdict][:n]


def _beside(connection: sa.Connection, pool: Pool, scorer: int, margins: Sequence[float], n: int) -> set[str]:
    """Return the `n` contents on either side of each boundary; the nearest ones are among them."""
    margin = Verdict.margin
    found: set[str] = set()
    for boundary in margins:
        for side, order in ((margin >= boundary, margin.asc()), (margin < boundary, margin.desc())):
            query = (
                current_verdicts(pool, Verdict.content_sha256).where(scorer_of(pool) == scorer, side).order_by(order)
            )
            found |= _distinct(connection, query, n)
    return found


def _distinct(connection: sa.Connection, query: sa.Select[tuple[str]], n: int) -> set[str]:
    """Return the first `n` different values of a query, perhaps more: an image may have several names."""
    size = n
    while True:
        rows = connection.execute(query.limit(size)).scalars().all()
        if len(set(rows)) >= n or len(rows) < size:
            return set(rows)
        size *= 4


def _smallest(values: Sequence[sa.ColumnElement[float]]) -> sa.ColumnElement[float]:
    """Return the smaller of one or two values: SQLite and PostgreSQL name the function differently."""
    if len(values) == 1:
        return values[0]
    first, second = values
    return sa.case((first < second, first), else_=second)


def candidates(connection: sa.Connection, pool: Pool, images: Collection[str]) -> dict[str, Candidate]:
    """Return the newest current answers, by content."""
    verdicts = list(_newest(connection, pool, images).values())
    found: dict[str, Candidate] = {}
    for start in range(0, len(verdicts), CHUNK_ROWS):
        query = (
            sa.select(Verdict.__table__, Image.uri, Image.width, Image.height, Scan.rescan_of)
            .join(Image, Image.id == Verdict.image_id)
            .join(Scan, Scan.id == Verdict.scan_id)
            .where(Verdict.id.in_(verdicts[start : start + CHUNK_ROWS]))
        )
        found |= {row.content_sha256: _candidate(row) for row in connection.execute(query)}
    return found


def _candidate(row: sa.Row[Any]) -> Candidate:
    return Candidate(
        content_sha256=row.content_sha256,
        verdict_id=row.id,
        scorer_id=row.scorer_id,
        uri=row.uri,
        scan=row.rescan_of or row.scan_id,  # where everything else shows the answer
        label=row.label,
        decision=row.decision,
        score=row.score,
        margin=row.margin,
        logits=tuple(row.logits),
        width=row.width,
        height=row.height,
    )


def _newest(connection: sa.Connection, pool: Pool, images: Collection[str]) -> dict[str, int]:
    """Return content -> its newest current verdict, of any scorer."""
    wanted = sorted(images)
    found: dict[str, int] = {}
    for start in range(0, len(wanted), CHUNK_ROWS):
        query = (
            current_verdicts(pool, Verdict.content_sha256, sa.func.max(Verdict.id).label("verdict"))
            .where(Verdict.scorer_id.in_(pool.scorers))
            .where(Verdict.content_sha256.in_(wanted[start : start + CHUNK_ROWS]))
            .group_by(Verdict.content_sha256)
        )
        found |= {row.content_sha256: row.verdict for row in connection.execute(query)}
    return found


def scorer_of(pool: Pool) -> sa.SQLColumnExpression[int]:
    """The scorer column; in a small pool written to avoid the indexes of scorers, which visit all of their scans."""
    return Verdict.scorer_id + 0 if pool.is_small else Verdict.scorer_id


def current_verdicts(pool: Pool, *columns: Any) -> sa.Select[Any]:
    """Select from verdicts that are an image's current answer, of images without a label."""
    undo = aliased(Label)
    undone = sa.exists().where(
        undo.check_name == pool.check_name, undo.content_sha256 == Label.content_sha256, undo.undoes == Label.id
    )
    labelled = sa.exists().where(
        Label.check_name == pool.check_name,
        Label.content_sha256 == Verdict.content_sha256,
        Label.undoes.is_(None),
        ~undone,
    )
    query = (
        sa.select(*columns)
        .select_from(Verdict)
        .join(Image, sa.and_(Image.id == Verdict.image_id, is_answered_by(Image, Verdict)))
        .where(~labelled)
    )
    return query if pool.scans is None else query.where(Verdict.scan_id.in_(pool.scans))
