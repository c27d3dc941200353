"""Answers: what a scorer says of an image, and the earlier ones that a scan may take over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from scanfleet.checks.crop_result import CropResult
from scanfleet.checks.explanation import Explanation
from scanfleet.checks.frame_result import FrameResult
from scanfleet.db.tables import Image, Verdict


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of one scorer for the bytes of an image: just given, or an earlier verdict's (`reused_from`)."""

    content_sha256: str
    width: int | None  # pixels, upright; None when the bytes were never fetched
    height: int | None
    label: str
    decision: str
    score: float | None
    margin: float
    mass: float
    logits: tuple[float, ...]
    boxes: tuple[dict[str, Any], ...] | None = None  # None: not requested
    box_problems: tuple[str, ...] = ()  # which parts of the boxes are not trusted, or why none were requested
    crop: CropResult | None = None  # None: no crop pass was due
    frames: FrameResult | None = None  # None: the file holds one picture
    notes: tuple[str, ...] = ()  # what decoding chose where viewers differ
    explanation: Explanation | None = None  # None: not asked for, or not flagged
    unlike: float | None = None  # share of the calibration images that are less unlike; None: not compared
    doubted: str | None = None  # the decision by the margin alone, where a review stands for an unlike image
    reused_from: int | None = None  # the verdict that gave the answer first, or the first copy that is left
    computed_at: datetime | None = None  # of a reused one, when it was given first; None: just now

    def is_whole(self, *, explained: bool) -> bool:
        """Return whether nothing is missing that another reading could add. explained: flags need an explanation."""
        if self.crop is not None and not self.crop.complete:
            return False
        return not explained or self.decision != "flag" or (self.explanation is not None and self.explanation.complete)


@dataclass(frozen=True, kw_only=True)
class NewVerdict(Answer):
    """The answer for one image, ready to be written."""

    image_id: int
    identity: str

    @classmethod
    def reuse(cls, answer: Answer, *, image_id: int, identity: str) -> NewVerdict:
        return cls(image_id=image_id, identity=identity, **vars(answer))


# Fields of an answer that are columns of its verdict, as they are.
COLUMNS = (
    "content_sha256",
    "label",
    "decision",
    "score",
    "margin",
    "mass",
    "logits",
    "boxes",
    "unlike",
    "doubted",
    "reused_from",
)


def answers_by_identity(
    connection: sa.Connection, scorer_id: int, identities: Collection[str], *, explained: bool = False
) -> dict[str, Answer]:
    """Return earlier answers for the same listed versions (uri and etag), whose bytes need no fetching.

    Answers that lack a crop pass which was due (`CropResult.complete`) are left out: the scan had no tokens left for
    it, and this one may have some. So are doubted ones: they depend on the other images of that scan.

    explained: leave out flags without an explanation, too: a scorer answers alike whether one is asked for or not.
    """
    return _answers(connection, scorer_id, Verdict.identity, identities, explained=explained)


def answers_by_content(
    connection: sa.Connection, scorer_id: int, hashes: Collection[str], *, explained: bool = False
) -> dict[str, Answer]:
    """Return earlier answers for the same bytes under any name; incomplete ones are left out here, too."""
    return _answers(connection, scorer_id, Verdict.content_sha256, hashes, explained=explained)


def content_of() -> sa.ColumnElement[str]:
    """The hash of an image's bytes, for a query of images and their verdicts, if any."""
    return sa.func.coalesce(Verdict.content_sha256, Image.content_sha256)


def scored_at() -> sa.Label[datetime]:
    """When the answer of a verdict was computed. Copies of an older release lack it: their originals have it."""
    original = orm.aliased(Verdict)
    first = sa.select(original.created_at).where(original.id == Verdict.reused_from).scalar_subquery()
    found = sa.case(  # not coalesce: the original is looked up for copies alone
        (Verdict.computed_at.is_not(None), Verdict.computed_at),
        (Verdict.reused_from.is_(None), Verdict.created_at),
        else_=sa.func.coalesce(first, Verdict.created_at),
    )
    return found.label("scored_at")


def _answers(
    connection: sa.Connection,
    scorer_id: int,
    column: orm.InstrumentedAttribute[str],
    values: Collection[str],
    *,
    explained: bool,
) -> dict[str, Answer]:
    if not values:
        return {}
    rows = connection.execute(_given(column, connection.dialect.name), {"scorer": scorer_id, "values": list(values)})
    answers = ((getattr(row, column.key), _answer(row)) for row in rows)
    return {key: answer for key, answer in answers if answer.is_whole(explained=explained) and answer.doubted is None}


@cache
def _given(column: orm.InstrumentedAttribute[str], dialect_name: str) -> sa.Select[Any]:
    """Select the answers of a `scorer` for `values` of a column; built once, as it takes longer to build than to run.

    On PostgreSQL the values are one array, and each is looked up by the index: a table without statistics, as every new
    one is, leads other forms to plans that read all verdicts of the scorer. OFFSET keeps the look-up apart.
    """
    of_scorer = Verdict.scorer_id == sa.bindparam("scorer")
    query = sa.select(*Verdict.__table__.c, Image.width, Image.height, scored_at()).select_from(Verdict)
    query = query.join(Image, Image.id == Verdict.image_id)
    if dialect_name != "postgresql":
        return query.where(of_scorer, column.in_(sa.bindparam("values", expanding=True)))
    texts = sa.bindparam("values", type_=postgresql.ARRAY(sa.Text()))
    given = sa.func.unnest(texts).table_valued("value").render_derived(name="given")
    other = orm.aliased(Verdict)
    same = (other.scorer_id == sa.bindparam("scorer"), getattr(other, column.key) == given.c.value)
    found = sa.select(other.id).where(*same).offset(0).lateral("found")
    ids = sa.select(found.c.id).select_from(given.join(found, sa.true()))
    return query.where(Verdict.id.in_(ids))


def _answer(row: sa.Row[Any]) -> Answer:
    held = {name: getattr(row, name) for name in (*COLUMNS, "width", "height")}
    more = {
        "logits": tuple(row.logits),
        "boxes": None if row.boxes is None else tuple(row.boxes),
        "box_problems": tuple(row.box_problems or ()),
        "crop": CropResult.read(row.crop),
        "frames": FrameResult.read(row.frames),
        "notes": tuple(row.notes or ()),
        "explanation": Explanation.read(row.explanation),
        "reused_from": row.reused_from or row.id,
        "computed_at": row.scored_at,
    }
    return Answer(**(held | more))
