"""A tally: what the current answers of some images add up to, as whole numbers by name.

Each batch carries the tally of its images (`batches.tally`), so that a scan of millions is summed over its batches.
Names are `SCORER DECISION LABEL`, which count each answer once, and these:

    SCORER low          answers whose labels are improbable together
    SCORER far          far from the adapter's calibration images; of `compared`
    SCORER compared     with a measure of that
    SCORER doubted      reviews that stand for an image unlike those
    SCORER files        files with several pictures; `partly`: of these, with pictures that were not read
    SCORER frames       their pictures; `read`: of these
    SCORER problem WHY  answers without the explanation that was asked for

Tallies add up, so that a write adds the difference it makes. NULL stands for a batch whose answers a worker of an
earlier release wrote: its images are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from scanfleet.db.base import Json
from scanfleet.db.tables import DECISIONS, Batch, Verdict
from scanfleet.stats.counts import MASS_FLOOR
from scanfleet.stats.unlike import FAR

Tally = Counter[str]

# What `of_answer` needs of a verdict, as columns of these names.
COLUMNS = (
    *(Verdict.__table__.c[name] for name in ("scorer_id", "label", "decision", "mass", "unlike", "doubted")),
    Verdict.frames["n_frames"].as_integer().label("n_frames"),
    Verdict.frames["n_scored"].as_integer().label("n_scored"),
    Verdict.explanation["problem"].as_string().label("problem"),
)


def of_answer(
    *,
    scorer_id: int,
    label: str,
    decision: str,
    mass: float,
    unlike: float | None,
    doubted: str | None,
    n_frames: int | None,
    n_scored: int | None,
    problem: str | None,
) -> Tally:
    """Return the tally of one answer. n_frames, n_scored: of a file with several pictures."""
    counted = {
        f"{decision} {label}": 1,
        "low": mass < MASS_FLOOR,
        "far": unlike is not None and unlike >= FAR,
        "compared": unlike is not None,
        "doubted": doubted is not None,
        "files": n_frames is not None,
        "partly": n_frames is not None and (n_scored or 0) < n_frames,
        "frames": n_frames or 0,
        "read": n_scored or 0,
        f"problem {problem}": problem is not None,
    }
    return Counter({f"{scorer_id} {name}": int(n) for name, n in counted.items() if n})


def of_rows(rows: Iterable[sa.Row[Any]]) -> Tally:
    """Return the tally of rows with COLUMNS."""
    found: Tally = Counter()
    for row in rows:
        found.update(of_answer(**{column.key: row._mapping[column.key] for column in COLUMNS}))
    return found


def difference(after: Tally, before: Tally) -> dict[str, int]:
    """Return what is to be added: negative numbers too, no zero."""
    return {name: n for name in after | before if (n := after[name] - before[name])}


def holds(tally: Mapping[str, int] | None, *, n_verdicts: int, n_flagged: int, n_review: int) -> bool:
    """Whether a tally agrees with the counts of its batch: a worker of an earlier release changes those alone."""
    if tally is None:
        return False
    decided: Counter[str] = Counter()
    for name, n in tally.items():
        decided[name.split(" ", 2)[1]] += n
    every = sum(decided[decision] for decision in DECISIONS)
    return (every, decided["flag"], decided["review"]) == (n_verdicts, n_flagged, n_review)


def tally_with(more: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the value of `Batch.tally` once this is added to it; NULL stays where answers were not tallied.

    more: a parameter of type Json, as `literal` makes one.
    """
    tallied = sa.or_(Batch.tally.is_not(None), Batch.n_verdicts == 0)
    return sa.case((tallied, _added(Batch.tally, more)), else_=sa.null())


def literal(more: Mapping[str, int]) -> sa.ColumnElement[Any]:
    return sa.literal(dict(more), Json)


class _added(FunctionElement[Any]):  # noqa: N801 - used like a function
    """The sum of two JSON objects of whole numbers, name by name, without zeros; NULL counts as empty."""

    inherit_cache = True
    type = Json


_SUMMED = (
    "(SELECT {collect}(key, n) FROM (SELECT key, sum(CAST(value AS bigint)) AS n FROM "
    "(SELECT key, value FROM {each}(coalesce({held}, '{{}}')) UNION ALL SELECT key, value FROM {each}({more})) both_ "
    "GROUP BY key HAVING sum(CAST(value AS bigint)) <> 0) summed)"
)


@compiles(_added, "postgresql")
def _(element: _added, compiler: Any, **options: Any) -> str:
    held, more = (compiler.process(each, **options) for each in element.clauses)
    summed = _SUMMED.format(collect="jsonb_object_agg", each="jsonb_each_text", held=held, more=more)
    return f"coalesce({summed}, '{{}}')"


@compiles(_added, "sqlite")
def _(element: _added, compiler: Any, **options: Any) -> str:
    held, more = (compiler.process(each, **options) for each in element.clauses)
    return _SUMMED.format(collect="json_group_object", each="json_each", held=held, more=more)
