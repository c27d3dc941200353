"""The newest answers and labels, by check: a few thousand rows at the end of an index, however large the ledger is."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.tables import CheckRow, Label, ScorerRow, Verdict
from scanfleet.stats.counts import MASS_FLOOR

N_ANSWERS = 5_000  # the newest of the ledger
N_LABELS = 5_000
EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # upper edges of the bins of scores


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one check. n_scored: with a calibrated score. up_to: of these, those up to each of EDGES.

    mass: the mean probability of all labels together. n_low: answers whose labels are improbable together.
    """

    n: int
    n_flagged: int
    n_scored: int
    score_sum: float
    up_to: tuple[int, ...]
    mass: float
    n_low: int


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Labels that people gave when they saw an answer, and of these, those that differ from it."""

    n: int
    n_corrected: int


def newest_answers(connection: sa.Connection, *, n: int = N_ANSWERS) -> dict[str, Answers]:
    """Return the newest answers of the ledger by check."""
    columns = (Verdict.scorer_id, Verdict.decision, Verdict.score, Verdict.mass)
    newest = sa.select(*columns).order_by(Verdict.id.desc()).limit(n).subquery("newest")
    below = (
        sa.func.sum(sa.case((newest.c.score <= edge, 1), else_=0)).label(f"below_{at}") for at, edge in enumerate(EDGES)
    )
    query = (
        sa.select(
            CheckRow.name,
            sa.func.count().label("n"),
            sa.func.sum(sa.case((newest.c.decision == "flag", 1), else_=0)).label("n_flagged"),
            sa.func.count(newest.c.score).label("n_scored"),
            sa.func.sum(newest.c.score).label("score_sum"),
            sa.func.avg(newest.c.mass).label("mass"),
            sa.func.sum(sa.case((newest.c.mass < MASS_FLOOR, 1), else_=0)).label("n_low"),
            *below,
        )
        .join(ScorerRow, ScorerRow.id == newest.c.scorer_id)
        .join(CheckRow, CheckRow.id == ScorerRow.check_id)
        .group_by(CheckRow.name)
    )
    return {
        row.name: Answers(
            n=row.n,
            n_flagged=int(row.n_flagged),
            n_scored=row.n_scored,
            score_sum=float(row.score_sum or 0.0),
            up_to=tuple(int(row._mapping[f"below_{at}"]) for at in range(len(EDGES))),
            mass=float(row.mass),
            n_low=int(row.n_low),
        )
        for row in connection.execute(query)
    }


def newest_corrections(connection: sa.Connection, *, n: int = N_LABELS) -> dict[str, Corrections]:
    """Return what people said of answers that they saw, in the newest labels of the ledger, by check."""
    shown = Label.shown["label"].as_string().label("shown")
    columns = (Label.check_name, Label.label, Label.undoes, shown)
    newest = sa.select(*columns).order_by(Label.id.desc()).limit(n).subquery("newest")
    differs = sa.case((newest.c.label != newest.c.shown, 1), else_=0)
    query = (
        sa.select(newest.c.check_name, sa.func.count(), sa.func.sum(differs))
        .where(newest.c.shown.is_not(None), newest.c.undoes.is_(None))
        .group_by(newest.c.check_name)
    )
    return {check: Corrections(n=n, n_corrected=int(differ)) for check, n, differ in connection.execute(query)}
