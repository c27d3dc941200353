"""Verdicts of images that are deleted: which of them stay, and what the pointers to the others become.

A verdict of a rescan that is the answer of the image that it renews moves to that image. A verdict that others copied
hands its copies on to the first of them, which then names itself: each was scored once, and stands by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.tables import Batch, Image, Verdict


def lock_verdicts(connection: sa.Connection, image_ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
    """Lock and return the verdicts of these images; nobody begins to copy one until the transaction ends."""
    names = ("id", "image_id", "scorer_id", "reused_from", "unlike", "content_sha256")
    query = (
        sa.select(*(Verdict.__table__.c[name] for name in names))
        .where(Verdict.image_id.in_(image_ids))
        .order_by(Verdict.id)
    )
    return connection.execute(query.with_for_update()).all()


def keep_standing(
    connection: sa.Connection, images: Sequence[sa.Row[Any]], verdicts: Sequence[sa.Row[Any]]
) -> dict[int, int]:
    """Move the answers that stand in the images that are renewed there. Returns verdict -> image.

    An earlier verdict of the same scorer gives way, since an image has one of each. The renewed images stay locked.
    """
    renewed = [image.rescan_of for image in images if image.rescan_of is not None]
    if not renewed:
        return {}
    query = sa.select(Image.id, Image.scan_id, Image.batch_id, Image.verdict_id).order_by(Image.id)
    lock = query.where(Image.id.in_(renewed), Image.state == "verdict").with_for_update(key_share=True)
    own = {verdict.id: verdict for verdict in verdicts}
    stand = [row for row in connection.execute(lock) if row.verdict_id in own]
    if not stand:
        return {}
    earlier = _earlier(connection, {row.id: own[row.verdict_id] for row in stand})
    _keep_times(connection, [old.id for old, _ in earlier])
    for column in (Image.replaced, Verdict.reused_from):
        _point(connection, column, {old.id: new.id for old, new in earlier})
    connection.execute(sa.delete(Verdict).where(Verdict.id.in_([old.id for old, _ in earlier])))
    moves = [{"b_verdict": row.verdict_id, "b_image": row.id, "b_scan": row.scan_id} for row in stand]
    values: dict[str, Any] = {"image_id": sa.bindparam("b_image"), "scan_id": sa.bindparam("b_scan")}
    connection.execute(sa.update(Verdict).where(Verdict.id == sa.bindparam("b_verdict")).values(values), moves)
    batch_of = {row.id: row.batch_id for row in stand}
    reused = Counter(batch_of[row.id] for row in stand if own[row.verdict_id].reused_from is not None)
    reused.subtract(batch_of[old.image_id] for old, _ in earlier if old.reused_from is not None)
    for batch_id, by in sorted(reused.items()):
        if by:
            more = sa.update(Batch).where(Batch.id == batch_id).values(n_reused=Batch.n_reused + by)
            connection.execute(more)
    return {row.verdict_id: row.id for row in stand}


def _earlier(connection: sa.Connection, stand: Mapping[int, sa.Row[Any]]) -> list[tuple[sa.Row[Any], sa.Row[Any]]]:
    """Return (verdict that the image has by the same scorer, verdict that stands) where there are two."""
    found = lock_verdicts(connection, list(stand))
    return [(old, stand[old.image_id]) for old in found if old.scorer_id == stand[old.image_id].scorer_id]


def hand_on(connection: sa.Connection, images: Sequence[sa.Row[Any]], gone: Collection[int]) -> None:
    """Let nothing point to verdicts that go with these images.

    The first copy of a verdict takes its place. An image of another rescan that replaced one of them replaced what
    stood before it.
    """
    before = {image.verdict_id: image.replaced for image in images}

    def stood(verdict: int | None) -> int | None:
        while verdict in gone:
            verdict = before.get(verdict)
        return verdict

    _keep_times(connection, gone)
    heir = sa.func.min(Verdict.id).label("heir")
    copies = sa.select(Verdict.reused_from, heir).where(Verdict.reused_from.in_(gone), Verdict.id.not_in(gone))
    heirs = connection.execute(copies.group_by(Verdict.reused_from)).all()
    _point(connection, Verdict.reused_from, {row.reused_from: row.heir for row in heirs})
    named = connection.execute(sa.select(Image.replaced).where(Image.replaced.in_(gone)).distinct()).scalars()
    _point(connection, Image.replaced, {verdict: stood(verdict) for verdict in named if verdict is not None})


def _keep_times(connection: sa.Connection, gone: Collection[int]) -> None:
    """Write in the copies of these verdicts when the answer was given: those of older releases know it from them."""
    original = orm.aliased(Verdict)
    given = sa.select(sa.func.coalesce(original.computed_at, original.created_at))
    given = given.where(original.id == Verdict.reused_from).correlate(Verdict)
    copies = sa.update(Verdict).where(Verdict.reused_from.in_(gone), Verdict.computed_at.is_(None))
    connection.execute(copies.values(computed_at=given.scalar_subquery()))


def _point(
    connection: sa.Connection, column: orm.InstrumentedAttribute[int | None], to: Mapping[int, int | None]
) -> None:
    if to:
        update = sa.update(column.class_).where(column == sa.bindparam("b_old")).values({column: sa.bindparam("b_new")})
        connection.execute(update, [{"b_old": old, "b_new": new} for old, new in to.items()])
