"""Counts for `scanfleet.stats.drift`, which decides whether answers have drifted. All sums are made in SQL.

The reference of a scorer is its first scan with MIN_IMAGES verdicts or more: batches spread over it evenly, so that no
single folder represents all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.drift.corrections import labels_of, newest_check
from scanfleet.db.drift.counts import BIN_WIDTH, count_cells, spread_batches, tallies_of
from scanfleet.db.drift.uri_parts import By
from scanfleet.db.tables import Adapter, Batch, Champion, CheckRow, Scan, ScorerRow
from scanfleet.stats.counts import MIN_IMAGES, CalibrationMargins, Slice, Tally
from scanfleet.stats.drift import MIN_FAR_IMAGES, judge, judge_labels
from scanfleet.stats.psi import edges_of_histogram, span_of_histogram
from scanfleet.stats.unlike import UNKNOWN_IMAGES

REFERENCE_BATCHES = 256
RECENT_BATCHES = 128  # of a scan, for checks that run every half minute
RECENT_SCANS = 2
MAX_SCANS = 20


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference scan. edges: between the bins of its margins. span: from its least margin to its largest, widened by
    the rounding. tallies: by source; None: all of it."""

    scan: str
    edges: tuple[float, ...]
    span: tuple[float, float]
    tallies: dict[str | None, Tally]

    def of(self, source: str | None) -> tuple[str | None, Tally]:
        """Return the same source of the reference scan if it has enough images, else the whole scan."""
        own = self.tallies.get(source)
        return (source, own) if own is not None and own.n >= MIN_IMAGES else (None, self.tallies[None])


def slices(
    connection: sa.Connection,
    check_name: str,
    *,
    scan_id: str | None = None,
    by: By | None = None,
    max_scans: int = MAX_SCANS,
    max_batches: int | None = None,
    in_use: bool = False,
    standing: bool = False,
    held_from: int = 0,
) -> Iterator[Slice]:
    """Yield every scan of a check, the newest first, by scorer; with `by`, each scan is followed by its sources.

    max_batches: read at most this many batches of each scan, spread evenly. in_use: leave out scorers whose
    adapter is no longer the champion. standing: leave out scorers of whose answers a rescan has replaced some: the
    others are a selection, which shows nothing. held_from: scans with fewer verdicts have no reference: they are too
    few to be judged by one.
    """
    known: dict[int, Reference | None] = {}
    for scan, sources in _newest_scans(connection, check_name, scan_id=scan_id, limit=max_scans):
        for scorer in _scorers_of(connection, check_name, scan, in_use=in_use, standing=standing):
            if scorer.id not in known:
                judged = not held_from or _n_verdicts(connection, scan) >= held_from
                known[scorer.id] = _reference(connection, scorer.id, by=by) if judged else None
            counted = None if max_batches is None else spread_batches(connection, scan, limit=max_batches)
            for way in (None, by) if by is not None else (None,):
                yield from _slices(connection, scan, sources, scorer, known[scorer.id], by=way, batches=counted)


def alarms(connection: sa.Connection, check_name: str) -> list[str]:
    """Return reasons to train a check again, as text. Reads a part of the newest scans, whatever their size.

    An adapter that was replaced raises no alarm. Where the base alone answers, a low label mass is normal and is not
    counted as drift.
    """
    newest = slices(connection, check_name, max_scans=RECENT_SCANS, max_batches=RECENT_BATCHES, in_use=True)
    found = [finding for each in newest for finding in judge(each, of_mass=not each.zero_shot)]
    check = newest_check(connection, check_name)
    if check is not None:
        for labels in labels_of(connection, check):
            found += judge_labels(check_name, labels, target_recall=check.target_recall)
    return [finding.words for finding in found if finding.level == "alarm"]


def alarms_of_scan(connection: sa.Connection, check_name: str, scan_id: str) -> list[str]:
    """Return the alarms of one scan about its current answers, as text. Reads a part of it, whatever its size."""
    few = min(MIN_IMAGES, MIN_FAR_IMAGES)
    found = slices(connection, check_name, scan_id=scan_id, max_batches=RECENT_BATCHES, standing=True, held_from=few)
    judged = [finding for each in found for finding in judge(each, of_mass=not each.zero_shot)]
    return [finding.words for finding in judged if finding.level == "alarm"]


def _n_verdicts(connection: sa.Connection, scan_id: str) -> int:
    counted = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_verdicts), 0)).where(Batch.scan_id == scan_id)
    return int(connection.execute(counted).scalar_one())


def checks_with_scans(connection: sa.Connection) -> list[str]:
    query = sa.select(CheckRow.name).join(Scan, Scan.check_id == CheckRow.id).distinct().order_by(CheckRow.name)
    return list(connection.execute(query).scalars())


def _newest_scans(
    connection: sa.Connection, check_name: str, *, scan_id: str | None, limit: int
) -> list[tuple[str, list[str]]]:
    """Return scans with their sources."""
    query = (
        sa.select(Scan.id, Scan.sources)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .where(CheckRow.name == check_name)
        .order_by(Scan.created_at.desc(), Scan.id)
        .limit(limit)
    )
    if scan_id is not None:
        query = query.where(Scan.id == scan_id)
    return [(row.id, row.sources) for row in connection.execute(query)]


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    id: int
    text: str
    zero_shot: bool
    n_calibration: int  # images that `unlike` compares with; 0: it compares with none
    calibration: CalibrationMargins | None


def _scorers_of(
    connection: sa.Connection, check_name: str, scan_id: str, *, in_use: bool, standing: bool
) -> list[_Scorer]:
    used = sa.select(Batch.scorer_id).where(Batch.scan_id == scan_id, Batch.scorer_id.is_not(None)).distinct()
    query = (
        sa.select(ScorerRow.id, ScorerRow.base_model, ScorerRow.precision, ScorerRow.likeness)
        .add_columns(Adapter.weights_sha256, Adapter.metrics)
        .outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)
        .where(ScorerRow.id.in_(used))
        .order_by(ScorerRow.id)
    )
    if in_use:
        of_check = sa.and_(Champion.check_name == check_name, Champion.base_model == ScorerRow.base_model)
        is_it = Champion.adapter_id.is_not_distinct_from(ScorerRow.adapter_id)
        query = query.outerjoin(Champion, of_check).where(sa.or_(Champion.check_name.is_(None), is_it))
    if standing:
        rescanned = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id).where(Scan.rescan_of == scan_id)
        query = query.where(~rescanned.where(Batch.n_verdicts > 0, Batch.scorer_id != ScorerRow.id).exists())
    found = []
    for row in connection.execute(query):
        adapter = "" if row.weights_sha256 is None else f", {row.weights_sha256[:12]}"
        text = f"{row.base_model} ({row.precision}){adapter}"
        metrics = row.metrics or {}
        n_calibration = 0 if row.likeness is None else (metrics.get("likeness") or {}).get("n", UNKNOWN_IMAGES)
        held = metrics.get("margins")
        found.append(
            _Scorer(
                id=row.id,
                text=text,
                zero_shot=not adapter,
                n_calibration=n_calibration,
                calibration=None if not held else CalibrationMargins(**{name: tuple(held[name]) for name in held}),
            )
        )
    return found


def _slices(
    connection: sa.Connection,
    scan_id: str,
    sources: Sequence[str],
    scorer: _Scorer,
    reference: Reference | None,
    *,
    by: By | None,
    batches: Sequence[int] | None,
) -> Iterator[Slice]:
    is_reference = reference is not None and reference.scan == scan_id
    first = scorer.calibration if is_reference or reference is None else None
    held = first or reference
    edges, span = ((0.0,), None) if held is None else (held.edges, held.span)
    tallies = tallies_of(connection, scan_id, sources, scorer.id, edges, by=by, batches=batches, span=span)
    for source, tally in tallies.items():
        before, compared_with = None, None
        if reference is not None:
            name, before = reference.of(source)
            compared_with = f"scan {reference.scan}" + (f", {name}" if name is not None else "")
        yield Slice(
            scan=scan_id,
            scorer_id=scorer.id,
            scorer=scorer.text,
            zero_shot=scorer.zero_shot,
            calibration=first,
            n_calibration=scorer.n_calibration,
            source=source,
            tally=tally,
            before=None if is_reference else before,
            reference=compared_with,
        )


def _reference(connection: sa.Connection, scorer: int, *, by: By | None) -> Reference | None:
    """Return the reference of a scorer's margins; None: no scan has enough of its verdicts yet."""
    for scan_id, sources in _scans_of(connection, scorer):
        batches = spread_batches(connection, scan_id, limit=REFERENCE_BATCHES)
        cells = count_cells(connection, scan_id, scorer, batches)
        counts = cells.histogram()
        if sum(counts.values()) < MIN_IMAGES:
            continue
        edges = tuple(edges_of_histogram(counts, width=BIN_WIDTH))
        tallies: dict[str | None, Tally] = {None: cells.tally(edges)}
        if by is not None:
            tallies |= tallies_of(connection, scan_id, sources, scorer, edges, by=by, batches=batches)
        return Reference(scan=scan_id, edges=edges, span=span_of_histogram(counts, width=BIN_WIDTH), tallies=tallies)
    return None


def _scans_of(connection: sa.Connection, scorer: int) -> list[tuple[str, list[str]]]:
    """Yield scans with enough verdicts by a scorer, with their sources, the oldest first."""
    of_scorer = sa.select(CheckRow.name).join(ScorerRow, ScorerRow.check_id == CheckRow.id)
    enough = (
        sa.select(Batch.scan_id, sa.func.min(Batch.id).label("first"))
        .join(Scan, Scan.id == Batch.scan_id)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .where(CheckRow.name == of_scorer.where(ScorerRow.id == scorer).scalar_subquery(), Batch.scorer_id == scorer)
        .group_by(Batch.scan_id)
        .having(sa.func.sum(Batch.n_verdicts) >= MIN_IMAGES)
        .subquery()
    )
    query = sa.select(Scan.id, Scan.sources).join(enough, enough.c.scan_id == Scan.id).order_by(enough.c.first)
    return [(row.id, row.sources) for row in connection.execute(query)]
