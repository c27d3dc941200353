"""Results found from the counts of their batches: those that hold no match are passed over.

Within a scan, images and batches were added in one order under the lock of the scan, so that the first matches lie in
the first batches that have any. Scans are taken by their first such image, until no other one can come earlier.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from scanfleet.db.results.filters import ResultFilter, Words
from scanfleet.db.tables import DECISIONS, Batch, Image, Scan, ScorerRow

MOST_SCANS = 500  # with a match: more of them lie so densely that a walk through the images finds enough
MOST_BATCHES = 1024  # a statement
MOST_NAMES = 100  # of tallies, for a label

_ANSWERED = Batch.n_verdicts > 0
_UNTOLD = Batch.n_images > Batch.n_verdicts + Batch.n_failures
_STATES = {
    "verdict": _ANSWERED,
    "failed": Batch.n_failures > 0,
    "pending": sa.and_(Batch.state != "cancelled", _UNTOLD),
    "cancelled": sa.and_(Batch.state == "cancelled", _UNTOLD),
}
_DECISIONS = {
    "flag": Batch.n_flagged > 0,
    "review": Batch.n_review > 0,
    "clear": Batch.n_verdicts > Batch.n_flagged + Batch.n_review,
}


def holding(connection: sa.Connection, wanted: ResultFilter) -> list[sa.ColumnElement[bool]]:
    """Return conditions that each batch with a match meets; none where its counts tell nothing."""
    found = []
    if wanted.state:
        found.append(sa.or_(*(_STATES[state] for state in _each(wanted.state))))
    if wanted.decision:
        found.append(sa.or_(*(_DECISIONS[decision] for decision in _each(wanted.decision))))
    if wanted.label:
        found += [_ANSWERED, sa.or_(Batch.tally.is_(None), _has_label(connection, _each(wanted.label)))]
    if wanted.reason:
        found.append(Batch.n_failures > 0)
    return found


def _has_label(connection: sa.Connection, labels: Sequence[str]) -> sa.ColumnElement[bool]:
    """Whether a tally counts answers with one of these labels."""
    if connection.dialect.name == "postgresql":
        scorers = connection.execute(sa.select(ScorerRow.id)).scalars()
        names = [f"{scorer} {kind} {label}" for scorer in scorers for kind in DECISIONS for label in labels]
        if len(names) <= MOST_NAMES:
            return sa.func.jsonb_exists_any(Batch.tally, sa.literal(names, postgresql.ARRAY(sa.Text)))
    ends = (json.dumps(f" {label}", ensure_ascii=False)[1:] for label in labels)  # of a name, as JSON has it
    return sa.or_(*(sa.cast(Batch.tally, sa.Text).contains(end, autoescape=True) for end in ends))


def _each(words: Words) -> Sequence[str]:
    return [words] if isinstance(words, str) else list(words or ())


def first_ids(connection: sa.Connection, wanted: ResultFilter, *, limit: int) -> list[int] | None:
    """Return the first images by id that match; None where a walk through the images is as good."""
    which = holding(connection, wanted)
    if not which:
        return None
    if len(_each(wanted.scan)) == 1:
        return _ids_of_scan(connection, replace(wanted, scan=_each(wanted.scan)[0]), which, limit)
    scans = _scans(connection, wanted, which)
    if len(scans) > MOST_SCANS:
        return None
    found: list[int] = []
    for first, scan in _by_first_image(connection, scans):
        if len(found) == limit and first > found[-1]:
            break
        found = sorted([*found, *_ids_of_scan(connection, replace(wanted, scan=scan), which, limit)])[:limit]
    return found


def _scans(connection: sa.Connection, wanted: ResultFilter, which: Sequence[sa.ColumnElement[bool]]) -> dict[int, str]:
    """Return by its first batch that holds a match each scan that does."""
    query = sa.select(Batch.scan_id, sa.func.min(Batch.id).label("first")).where(*which).group_by(Batch.scan_id)
    if wanted.scan:
        query = query.where(Batch.scan_id.in_(_each(wanted.scan)))
    elif not wanted.rescans:
        query = query.where(Batch.scan_id.in_(sa.select(Scan.id).where(Scan.rescan_of.is_(None))))
    rows = connection.execute(query.limit(MOST_SCANS + 1))
    return {row.first: row.scan_id for row in rows}


def _by_first_image(connection: sa.Connection, scans: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return the least id of each batch's images, with its scan: no match of the scan comes earlier."""
    query = sa.select(Image.batch_id, sa.func.min(Image.id).label("first")).where(Image.batch_id.in_(scans))
    return sorted((row.first, scans[row.batch_id]) for row in connection.execute(query.group_by(Image.batch_id)))


def _ids_of_scan(
    connection: sa.Connection, wanted: ResultFilter, which: Sequence[sa.ColumnElement[bool]], limit: int
) -> list[int]:
    found: list[int] = []
    for batches in _chunks(connection, str(wanted.scan), which, size=limit):
        # "+ 0": else the order of ids may seem the quicker way, which passes through all images before these.
        query = wanted.joined(Image.id).where(Image.batch_id.in_(batches)).order_by(Image.id + 0)
        found += connection.execute(query.limit(limit - len(found))).scalars()
        if len(found) == limit:
            break
    return found


def _chunks(
    connection: sa.Connection, scan_id: str, which: Sequence[sa.ColumnElement[bool]], *, size: int
) -> Iterator[Sequence[int]]:
    """Yield the batches of a scan that hold a match, by id. size: of the first chunk; those that follow are larger."""
    every = sa.select(Batch.id).where(Batch.scan_id == scan_id, *which).order_by(Batch.id)
    after, size = 0, min(size, MOST_BATCHES)
    while chunk := connection.execute(every.where(Batch.id > after).limit(size)).scalars().all():
        yield chunk
        after, size = chunk[-1], min(4 * size, MOST_BATCHES)


def lacks_answers(wanted: ResultFilter) -> ResultFilter | None:
    """Return the part of a filter that images without an answer match; None: there is none."""
    of_answers = (wanted.label, wanted.decision, wanted.adapter, wanted.min_score, wanted.max_score)
    if any(value is not None and value != () and value != [] for value in of_answers):
        return None
    states = [state for state in ("pending", "failed", "cancelled") if not wanted.state or state in _each(wanted.state)]
    if wanted.tried:
        states = [state for state in states if state == "failed"]
    return replace(wanted, state=states) if states else None
