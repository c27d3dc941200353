"""A verdict of a rescan replaces the answer that it renews, in the transaction that writes it.

The answer of an image is the verdict written last. The one before stays in the ledger, and the rescan's image names it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.base import Json
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.db.tables import Batch, Image, Verdict
from scanfleet.db.tallies import tally

_COPIED = ("content_sha256", "width", "height")  # they describe the bytes that were scored


def renew(connection: sa.Connection, images: Sequence[ClaimedImage], written: Mapping[int, int]) -> None:
    """Point the renewed images to the verdicts just written (image id -> verdict id), and move their batches' counts.

    Others may renew the same images at the same moment. Images are locked before batches, each by id, which
    prevents deadlocks. The previous verdicts are read under the locks, and so include the latest writes of others.
    """
    renewing = {image.rescan_of: image.id for image in images if image.rescan_of is not None and image.id in written}
    if not renewing:
        return
    answered = (Image.id.in_(renewing), Image.state == "verdict")
    lock = sa.select(Image.id).where(*answered).order_by(Image.id)
    held = connection.execute(lock.with_for_update(key_share=True)).scalars().all()
    before = _current_answers(connection, held)
    if not before:
        return
    _record_previous(connection, {renewing[image_id]: row.verdict_id for image_id, row in before.items()})
    _point(connection, {image_id: renewing[image_id] for image_id in before})
    _move_counts(connection, list(before.values()), _current_answers(connection, held))


def _current_answers(connection: sa.Connection, image_ids: Sequence[int]) -> dict[int, sa.Row[Any]]:
    """Return by image, in the order of their ids: its batch, and the current verdict as tallies need it."""
    query = (
        sa.select(Image.id, Image.batch_id, Image.verdict_id, *tally.COLUMNS)
        .join(Verdict, Verdict.id == Image.verdict_id)
        .where(Image.id.in_(image_ids))
        .order_by(Image.id)
    )
    return {row.id: row for row in connection.execute(query)}


def _record_previous(connection: sa.Connection, replaced: Mapping[int, int]) -> None:
    update = sa.update(Image).where(Image.id == sa.bindparam("b_image")).values(replaced=sa.bindparam("b_replaced"))
    connection.execute(update, [{"b_image": image, "b_replaced": verdict} for image, verdict in replaced.items()])


def _point(connection: sa.Connection, renewing: Mapping[int, int]) -> None:
    """Copy verdict and bytes' columns, for old image id -> new image id."""
    new = orm.aliased(Image)
    columns = [getattr(new, name) for name in ("verdict_id", *_COPIED)]
    seen = {row.id: row for row in connection.execute(sa.select(new.id, *columns).where(new.id.in_(renewing.values())))}
    values: dict[str, Any] = {name: sa.bindparam(f"b_{name}") for name in ("verdict_id", *_COPIED)}
    rows = [
        {"b_image": old} | {f"b_{name}": getattr(seen[new_id], name) for name in values}
        for old, new_id in renewing.items()
    ]
    connection.execute(sa.update(Image).where(Image.id == sa.bindparam("b_image")).values(values), rows)


_MOVE = (
    sa.update(Batch)
    .where(Batch.id == sa.bindparam("b_id"))
    .values(
        n_flagged=Batch.n_flagged + sa.bindparam("b_flag"),
        n_review=Batch.n_review + sa.bindparam("b_review"),
        tally=tally.tally_with(sa.bindparam("b_more", type_=Json)),
    )
)


def _move_counts(connection: sa.Connection, before: Sequence[sa.Row[Any]], after: Mapping[int, sa.Row[Any]]) -> None:
    batches: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in before:
        batches[row.batch_id].append(row)
    moves = [_moved(batch_id, rows, [after[row.id] for row in rows]) for batch_id, rows in sorted(batches.items())]
    if changes := [move for move in moves if move["b_more"]]:
        connection.execute(_MOVE, changes)


def _moved(batch_id: int, before: Sequence[sa.Row[Any]], after: Sequence[sa.Row[Any]]) -> dict[str, Any]:
    """Return what a batch gains and loses with the answers of some of its images, for _MOVE."""
    n = Counter(row.decision for row in after)
    n.subtract(row.decision for row in before)
    more = tally.difference(tally.of_rows(after), tally.of_rows(before))
    return {"b_id": batch_id, "b_flag": n["flag"], "b_review": n["review"], "b_more": more}
