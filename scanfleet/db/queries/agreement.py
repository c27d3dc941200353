"""Answers of a scan beside the labels that people gave, counted in the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.labels.labels import TEACHING
from scanfleet.db.labels.queries import counting, split_for, undone
from scanfleet.db.tables import Image, Label, LabelledImage, ScorerRow, Verdict


@dataclass(frozen=True, kw_only=True)
class LabelledAnswers:
    """Contents with the same label and answer; each counts once, whatever its names.

    random: the image was drawn at random to be labelled. disputed: people differ. taught: an adapter answered, and the
    image lies in a split that adapters are made from. answer, decision: None for an image without a verdict.
    """

    random: bool
    disputed: bool
    taught: bool
    label: str
    answer: str | None
    decision: str | None
    n: int


def count_labelled(connection: sa.Connection, scan_id: str, check_name: str) -> list[LabelledAnswers]:
    """Count the images of a scan that have a label of this check that stands, or that people differ about."""
    of_scan = sa.select(Verdict.content_sha256).join(Image, Image.verdict_id == Verdict.id)
    of_scan = of_scan.where(Image.scan_id == scan_id)
    said = counting(check_name, Label.content_sha256.in_(of_scan))
    drawn = aliased(Label)
    random = sa.exists().where(
        drawn.check_name == check_name,
        drawn.content_sha256 == said.c.content_sha256,
        drawn.drawn == "random",
        drawn.undoes.is_(None),
        ~undone(drawn),
    )
    taught = sa.and_(ScorerRow.adapter_id.is_not(None), split_for(said.c.check_name).in_(TEACHING))
    each = (
        sa.select(said.c.content_sha256, said.c.label, said.c.disputed, random.label("random"))
        .add_columns(sa.func.coalesce(taught, sa.false()).label("taught"))
        .add_columns(Verdict.label.label("answer"), Verdict.decision)
        .join(Verdict, Verdict.content_sha256 == said.c.content_sha256)
        .join(Image, sa.and_(Image.verdict_id == Verdict.id, Image.scan_id == scan_id))
        .outerjoin(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        .outerjoin(LabelledImage, LabelledImage.content_sha256 == said.c.content_sha256)
        .where(said.c.place == 1)
        .subquery("each")
    )
    keys = [each.c[name] for name in ("random", "disputed", "taught", "label", "answer", "decision")]
    n = sa.func.count(each.c.content_sha256.distinct()).label("n")
    return [
        LabelledAnswers(
            random=bool(row.random),
            disputed=bool(row.disputed),
            taught=bool(row.taught),
            label=row.label,
            answer=row.answer,
            decision=row.decision,
            n=row.n,
        )
        for row in connection.execute(sa.select(*keys, n).group_by(*keys).order_by(*keys))
    ]
