"""People's labels of images whose answer they were shown, counted since the adapter in use last changed."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.db.labels.queries import counting
from scanfleet.db.tables import CheckRow, Label, Promotion, ScorerRow, Verdict
from scanfleet.stats.counts import Labels
from scanfleet.stats.proportions import Proportion

Drawn = Literal["all", "random"]
DECIDED = ("clear", "review", "flag")


def labels_of(connection: sa.Connection, check: Check, *, scan_id: str | None = None) -> list[Labels]:
    """Count over all current labels, and over those of random samples: only these represent the archive.

    scan_id: of images that this scan scored.
    """
    return [_labels(connection, check, drawn, scan_id) for drawn in ("all", "random")]


def newest_check(connection: sa.Connection, check_name: str) -> Check | None:
    """Return the version of a check that a scan used last; None: no scan did."""
    query = sa.select(CheckRow.body).where(CheckRow.name == check_name).order_by(CheckRow.id.desc()).limit(1)
    body = connection.execute(query).scalar_one_or_none()
    return None if body is None else Check.model_validate(body)


def _labels(connection: sa.Connection, check: Check, drawn: Drawn, scan_id: str | None) -> Labels:
    said = counting(check.name, Label.content_sha256.in_(_shown_since(check.name)))
    answer, decision = said.c.shown["label"].as_string(), said.c.shown["decision"].as_string()
    should_flag, cleared = said.c.label.in_(check.flags), decision == "clear"
    decided = decision.in_(DECIDED)
    columns = {
        "answered": answer.is_not(None),
        "positive": sa.and_(answer.is_not(None), should_flag),
        "overridden": said.c.label != answer,
        "cleared": cleared,
        "missed": sa.and_(cleared, should_flag),
        "flags": sa.and_(decided, should_flag),
        "found": sa.and_(decided, should_flag, ~cleared),
    }
    sums = [sa.func.coalesce(sa.func.sum(sa.case((true, 1), else_=0)), 0).label(name) for name, true in columns.items()]
    wanted = [said.c.place == 1, ~said.c.disputed, said.c.shown.is_not(None)]
    if drawn == "random":
        wanted.append(said.c.drawn == "random")
    if scan_id is not None:
        of_scorers = Verdict.scorer_id.in_(sa.select(ScorerRow.id))  # for the index
        of_image = (Verdict.scan_id == scan_id, Verdict.content_sha256 == said.c.content_sha256)
        wanted.append(sa.exists().where(of_scorers, *of_image))
    n = connection.execute(sa.select(*sums).where(*wanted)).one()
    return Labels(
        drawn=drawn,
        overridden=Proportion(k=int(n.overridden), n=int(n.answered)),
        missed=Proportion(k=int(n.missed), n=int(n.cleared)),
        recall=Proportion(k=int(n.found), n=int(n.flags)),
        positive=Proportion(k=int(n.positive), n=int(n.answered)),
    )


def _shown_since(check_name: str) -> sa.Select[tuple[str]]:
    """Select images that a person saw with an answer since the champion of the check last changed."""
    changed = sa.select(sa.func.max(Promotion.at)).where(Promotion.check_name == check_name).scalar_subquery()
    return sa.select(Label.content_sha256).where(
        Label.check_name == check_name, Label.shown.is_not(None), sa.or_(changed.is_(None), Label.at > changed)
    )
