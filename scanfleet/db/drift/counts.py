"""Counts over one scorer's verdicts of a scan: the histogram of their margins, and tallies by source.

Images that a rescan chose (`Image.drawn`) do not represent the archive: they are not counted, unless it took every
answer. Every query has a bounded number of rows, whatever the size of the scan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from scanfleet.db.drift.uri_parts import By, part_of
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.stats.counts import MASS_FLOOR, Tally
from scanfleet.stats.unlike import FAR

BIN_WIDTH = 1 / 64  # logits; edges between bins lie on this grid
MAX_BINS_AWAY = 4096  # of the grid, either side: margins farther away count as the last bin
BEYOND = MAX_BINS_AWAY + 1
MAX_SOURCES = 1000


def _n(true: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((true, 1), else_=0))


_COUNTED = {  # fields of a Tally
    "n_flag": _n(Verdict.decision == "flag"),
    "n_review": _n(Verdict.decision == "review"),
    "n_low_mass": _n(Verdict.mass < MASS_FLOOR),
    "n_far": _n(Verdict.unlike >= FAR),
    "n_compared": sa.func.count(Verdict.unlike),
}


def spread_batches(connection: sa.Connection, scan_id: str, *, limit: int) -> list[int]:
    """Return at most `limit` batches with verdicts, spread evenly over a scan."""
    these = (Batch.scan_id == scan_id, Batch.n_verdicts > 0)
    n = connection.execute(sa.select(sa.func.count()).select_from(Batch).where(*these)).scalar_one()
    step = max((n + limit - 1) // limit, 1)
    place = (sa.func.row_number().over(order_by=Batch.id) - 1).label("place")
    placed = sa.select(Batch.id, place).where(*these).subquery()
    return list(connection.execute(sa.select(placed.c.id).where(placed.c.place % step == 0)).scalars())


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Verdicts counted by their margins as multiples of BIN_WIDTH, so finely that bins and histogram follow from them.

    Edges of bins lie half-way between two multiples. `place` is the nearest one, and `cell` the one that a margin
    half-way is above of: they differ for some of those.
    """

    rows: Sequence[sa.Row[Any]]

    def histogram(self) -> dict[int, int]:
        """Return multiples of BIN_WIDTH -> number of verdicts with the nearest margin."""
        found: Counter[int] = Counter()
        for row in self.rows:
            found[int(row.place)] += row.n
        return dict(found)

    def tally(self, edges: Sequence[float]) -> Tally:
        """Return what `tallies_of` counts of all of them, for edges made of the histogram."""
        bins, far_bins = [0] * (len(edges) + 1), [0] * (len(edges) + 1)
        for row in self.rows:
            place = bisect_right(edges, (int(row.cell) - 0.5) * BIN_WIDTH)
            bins[place] += row.n
            far_bins[place] += int(row.n_far)
        sums: dict[str, Any] = {name: sum(int(row._mapping[name]) for row in self.rows) for name in _COUNTED}
        mean = sum(row.mass for row in self.rows) / sum(bins)
        return Tally(bins=tuple(bins), far_bins=tuple(far_bins), mean_mass=mean, **sums)


def count_cells(connection: sa.Connection, scan_id: str, scorer: int, batches: Sequence[int]) -> Cells:
    """Count the verdicts of a part of a scan by margin. Reads each once."""
    multiple = Verdict.margin / BIN_WIDTH
    nearest = sa.func.round(multiple)  # half-way, the databases round differently
    place = _within(nearest, MAX_BINS_AWAY)
    cell = _within(nearest + sa.case((multiple - nearest >= 0.5, 1), else_=0), BEYOND)
    columns = (place.label("place"), cell.label("cell"), sa.func.count().label("n"))
    more = (sa.func.sum(Verdict.mass).label("mass"), *(n.label(name) for name, n in _COUNTED.items()))
    query = _of_scorer(sa.select(*columns, *more), scan_id, scorer, batches)
    return Cells(rows=connection.execute(query.group_by("place", "cell").order_by("place", "cell")).all())


def _within(value: sa.ColumnElement[Any], most: int) -> sa.ColumnElement[Any]:
    return sa.case((value > most, most), (value < -most, -most), else_=value)


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
            sa.func.avg(Verdict.mass).label("mean_mass"),
            _n(outside).label("n_outside"),
            *(n.label(name) for name, n in _COUNTED.items()),
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
            mean_mass=float(row.mean_mass),
            n_outside=int(row.n_outside),
            far_bins=tuple(int(row._mapping[column.name]) for column in far_bins),
            **{name: int(row._mapping[name]) for name in _COUNTED},
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
