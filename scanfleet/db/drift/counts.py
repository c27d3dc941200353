"""Counts over one scorer's verdicts of a scan: the histogram of their margins, and tallies by source.

Images that a rescan chose (`Image.drawn`) do not represent the archive: they are not counted, unless it took every
answer. Every query has a bounded number of rows, whatever the size of the scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from scanfleet.db.drift.uri_parts import By, part_of
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.stats.counts import MASS_FLOOR, Tally
from scanfleet.stats.unlike import FAR

BIN_WIDTH = 1 / 64  # logits; edges between bins lie on this grid
MAX_BINS_AWAY = 4096  # of the grid, either side: margins farther away count as the last bin
MAX_SOURCES = 1000


def spread_batches(connection: sa.Connection, scan_id: str, *, limit: int) -> list[int]:
    """Return at most `limit` batches with verdicts, spread evenly over a scan."""
    place = (sa.func.row_number().over(order_by=Batch.id) - 1).label("place")
    placed = (
        sa.select(Batch.id, place, sa.func.count().over().label("n"))
        .where(Batch.scan_id == scan_id, Batch.n_verdicts > 0)
        .subquery()
    )
    step = (placed.c.n + (limit - 1)) // limit
    return list(connection.execute(sa.select(placed.c.id).where(placed.c.place % step == 0)).scalars())


def margin_histogram(connection: sa.Connection, scan_id: str, scorer: int, batches: Sequence[int]) -> dict[int, int]:
    """Return multiples of BIN_WIDTH -> number of verdicts with the nearest margin."""
    nearest = sa.func.round(Verdict.margin / BIN_WIDTH)
    place = sa.case((nearest > MAX_BINS_AWAY, MAX_BINS_AWAY), (nearest < -MAX_BINS_AWAY, -MAX_BINS_AWAY), else_=nearest)
    counts = _of_scorer(sa.select(place.label("place"), sa.func.count().label("n")), scan_id, scorer, batches)
    return {int(row.place): row.n for row in connection.execute(counts.group_by("place"))}


def tallies_of(
    connection: sa.Connection,
    scan_id: str,
    sources: Sequence[str],
    scorer: int,
    edges: Sequence[float],
    *,
    by: By | None,
    batches: Sequence[int] | None,
    span: tuple[float, float] | None = None,
) -> dict[str | None, Tally]:
    """Return tallies by source, the largest first; with by=None, one of all under None.

    span: margins outside it are counted as such.
    """
    outside = sa.false() if span is None else sa.or_(Verdict.margin < span[0], Verdict.margin > span[1])
    part = sa.null() if by is None else part_of(connection, sources, by)
    far = Verdict.unlike >= FAR
    bins = [_n(within).label(f"bin{place}") for place, within in enumerate(_bins(edges))]
    far_bins = [_n(sa.and_(within, far)).label(f"far{place}") for place, within in enumerate(_bins(edges))]
    query = _of_scorer(
        sa.select(
            part.label("source"),
            sa.func.count().label("n"),
            _n(Verdict.decision == "flag").label("n_flag"),
            _n(Verdict.decision == "review").label("n_review"),
            _n(Verdict.mass < MASS_FLOOR).label("n_low_mass"),
            sa.func.avg(Verdict.mass).label("mean_mass"),
            _n(outside).label("n_outside"),
            _n(far).label("n_far"),
            sa.func.count(Verdict.unlike).label("n_compared"),
            *bins,
            *far_bins,
        ),
        scan_id,
        scorer,
        batches,
    )
    if by is not None:
        query = query.group_by("source").order_by(sa.desc("n"), "source").limit(MAX_SOURCES)
    return {
        row.source: Tally(
            bins=tuple(int(row._mapping[column.name]) for column in bins),
            n_flag=int(row.n_flag),
            n_review=int(row.n_review),
            n_low_mass=int(row.n_low_mass),
            mean_mass=float(row.mean_mass),
            n_outside=int(row.n_outside),
            n_far=int(row.n_far),
            n_compared=int(row.n_compared),
            far_bins=tuple(int(row._mapping[column.name]) for column in far_bins),
        )
        for row in connection.execute(query)
        if row.n
    }


def _bins(edges: Sequence[float]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions on the margin, one for each of the len(edges) + 1 bins; an edge belongs to the bin above it."""
    yield Verdict.margin < edges[0]
    for low, high in pairwise(edges):
        yield sa.and_(Verdict.margin >= low, Verdict.margin < high)
    yield Verdict.margin >= edges[-1]


def _n(true: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((true, 1), else_=0))


def _of_scorer(query: sa.Select[Any], scan_id: str, scorer: int, batches: Sequence[int] | None) -> sa.Select[Any]:
    """Select from one scorer's verdicts of a scan, or of some of its batches, without images chosen by a rescan."""
    where = Verdict.scan_id == scan_id if batches is None else Image.batch_id.in_(batches)
    return (
        query.select_from(Verdict)
        .join(Image, Image.id == Verdict.image_id)
        # "+ 0": avoids the index of scorers, which visits all verdicts of a scorer.
        .where(Verdict.scorer_id + 0 == scorer, where)
        .where(sa.or_(Image.drawn.is_(None), sa.and_(Image.drawn == "all", _took_every_answer(scan_id))))
    )


def _took_every_answer(scan_id: str) -> sa.ColumnElement[bool]:
    """Whether a rescan without a band left none out: `--all` leaves out those that the champion has given already."""
    left_out, wanted = Scan.filters["current"].as_integer(), Scan.filters["changeable"].as_integer()
    every = (sa.func.coalesce(left_out, 0) == 0, sa.func.coalesce(Scan.n_listed >= wanted, True))
    return sa.exists().where(Scan.id == scan_id, *every)
