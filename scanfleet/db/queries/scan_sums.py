"""What the current answers of a scan add up to, from the tallies of its batches (`scanfleet.db.tallies.tally`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.results.scorers import ScorerUse, uses_of
from scanfleet.db.tables import DECISIONS, Batch, Image, Scan, Verdict
from scanfleet.db.tallies.scan_sums import kept_tally
from scanfleet.db.tallies.tally import COLUMNS, Tally, holds, of_answer
from scanfleet.stats.counts import MASS_FLOOR
from scanfleet.stats.unlike import FAR


@dataclass(frozen=True, kw_only=True)
class FrameCounts:
    """n_files: files with several pictures. n_partly: of these, files with pictures that were not scored.

    n_frames, n_scored: their pictures, and those that were scored.
    """

    n_files: int
    n_partly: int
    n_frames: int
    n_scored: int


@dataclass(frozen=True, kw_only=True)
class Unexplained:
    """Flagged images that lack the explanation which the check asks for. n: images. reason: of one of them."""

    n: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ScanSums:
    """answers: (decision, label) -> images. scorers: the most frequent first. unexplained: None: nothing is missing."""

    answers: dict[tuple[str, str], int]
    scorers: list[ScorerUse]
    frames: FrameCounts
    unexplained: Unexplained | None


def sums_of_scan(connection: sa.Connection, scan_id: str) -> ScanSums:
    """Sum the current answers of a scan. Its size in batches decides what this costs, not that in images."""
    answers: Counter[tuple[str, str]] = Counter()
    by_scorer: dict[int, Counter[str]] = defaultdict(Counter)
    problems: Counter[str] = Counter()
    for name, n in tally_of_scan(connection, scan_id).items():
        scorer, kind, *of = name.split(" ", 2)
        if kind in DECISIONS:
            answers[kind, of[0]] += n
            by_scorer[int(scorer)]["images"] += n
        elif kind == "problem":
            problems[of[0]] += n
        else:
            by_scorer[int(scorer)][kind] += n
    every = sum(by_scorer.values(), Counter[str]())
    return ScanSums(
        answers={key: n for key, n in sorted(answers.items()) if n},
        scorers=uses_of(connection, {scorer: counts for scorer, counts in by_scorer.items() if counts["images"]}),
        frames=FrameCounts(
            n_files=every["files"], n_partly=every["partly"], n_frames=every["frames"], n_scored=every["read"]
        ),
        unexplained=Unexplained(n=problems.total(), reason=min(problems)) if problems else None,
    )


def tally_of_scan(connection: sa.Connection, scan_id: str) -> Tally:
    """Return the tally of a scan's current answers.

    Batches without one, which an earlier release wrote, are counted image by image; all of the scan is where a worker
    of an earlier release changed one of its tallied batches, or answered a rescan of it.
    """
    kept = kept_tally(connection, scan_id)
    if kept is not None:
        return kept
    rescans = connection.execute(sa.select(Scan.id).where(Scan.rescan_of == scan_id)).scalars()
    columns = (Batch.tally, Batch.n_verdicts, Batch.n_flagged, Batch.n_review)
    alike = (
        sa.select(Batch.scan_id, *columns, sa.func.count().label("n"))
        .where(Batch.scan_id.in_([scan_id, *rescans]), Batch.n_verdicts > 0)
        .group_by(Batch.scan_id, *columns)
    )
    found: Tally = Counter()
    some_untold = False
    for row in connection.execute(alike):
        if row.scan_id == scan_id and row.tally is None:
            some_untold = True
        elif not holds(row.tally, n_verdicts=row.n_verdicts, n_flagged=row.n_flagged, n_review=row.n_review):
            return _counted(connection, Image.scan_id == scan_id)
        elif row.scan_id == scan_id:
            for name, n in row.tally.items():
                found[name] += n * row.n
    if some_untold:
        untold = (Batch.scan_id == scan_id, Batch.n_verdicts > 0, Batch.tally.is_(None))
        found.update(_counted(connection, Image.batch_id.in_(sa.select(Batch.id).where(*untold))))
    return found


def _counted(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Tally:
    """Tally images by their verdicts, grouped by all that makes a difference."""
    given: dict[str, sa.ColumnElement[Any]] = {column.key: column for column in COLUMNS}
    given["mass"] = sa.case((Verdict.mass < MASS_FLOOR, 0.0), else_=1.0)
    given["unlike"] = sa.case((Verdict.unlike >= FAR, 1.0), (Verdict.unlike.is_not(None), 0.0))
    inner = sa.select(*(column.label(name) for name, column in given.items()))
    each = inner.join(Image, Image.verdict_id == Verdict.id).where(which).subquery("each")
    query = sa.select(*each.c, sa.func.count().label("n")).group_by(*each.c)
    found: Tally = Counter()
    for row in connection.execute(query):
        for name, n in of_answer(**{key: row._mapping[key] for key in given}).items():
            found[name] += n * row.n
    return found
