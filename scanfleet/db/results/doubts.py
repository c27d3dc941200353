"""A scan whose images are unlike those that its adapter was calibrated on: a person decides about all of them.

A batch in which many images are far has its scan looked at, in the transaction that writes the batch. Where the scan
is lost (`scanfleet.stats.unlike`), every decision so far by that scorer becomes a review, and `doubted` keeps what the
margin alone says. Batches of such a scan that are like the calibration, and come later, decide as ever.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import sqlalchemy as sa

from scanfleet.db.base import Json
from scanfleet.db.engine import now
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.db.tallies.tally import Tally, tally_with
from scanfleet.stats.unlike import DOUBTFUL_SHARE, is_lost


def doubt_if_lost(connection: sa.Connection, scan_id: str, scorer_id: int, *, n_far: int, n_compared: int) -> int:
    """Turn the decisions of a lost scan to reviews. Returns the number of batches that it touched.

    n_far, n_compared: of the batch that was just written. A rescan is a selection, so it is never lost.
    """
    if not n_compared or n_far < DOUBTFUL_SHARE * n_compared:
        return 0
    rescans = sa.exists().where(Scan.id == scan_id, Scan.rescan_of.is_not(None))
    sums = sa.select(sa.func.sum(Batch.n_unlike).label("far"), sa.func.sum(Batch.n_compared).label("compared"))
    row = connection.execute(sums.where(Batch.scan_id == scan_id, Batch.scorer_id == scorer_id, ~rescans)).one()
    if not is_lost(int(row.far or 0), int(row.compared or 0)):
        return 0
    decided = (Batch.n_compared > 0, Batch.n_review < Batch.n_verdicts)
    written = sa.select(Batch.id).where(Batch.scan_id == scan_id, Batch.scorer_id == scorer_id, *decided)
    # Without waiting, since this transaction holds a batch already (`scanfleet.db.locks`). Who holds one looks, too.
    free = written.order_by(Batch.id).with_for_update(key_share=True, skip_locked=True)
    batches = list(connection.execute(free).scalars())
    if batches:
        _turn(connection, scorer_id, batches)
    return len(batches)


def _turn(connection: sa.Connection, scorer_id: int, batches: list[int]) -> None:
    current = sa.select(Image.verdict_id).where(Image.batch_id.in_(batches))
    turning = (
        sa.update(Verdict)
        .where(Verdict.id.in_(current), Verdict.scorer_id == scorer_id)
        .where(Verdict.unlike.is_not(None), Verdict.decision != "review")
        .values(decision="review", doubted=Verdict.decision)
        .returning(Verdict.id)
    )
    turned = list(connection.execute(turning).scalars())
    _mark_changed(connection, batches, turned)
    connection.execute(
        sa.update(Batch).where(Batch.id.in_(batches)).values(n_flagged=_n("flag"), n_review=_n("review"))
    )
    moved = _moved(connection, scorer_id, batches, turned)
    if moved:
        renewed = tally_with(sa.bindparam("b_more", type_=Json))
        update = sa.update(Batch).where(Batch.id == sa.bindparam("b_id")).values(tally=renewed)
        connection.execute(update, [{"b_id": batch_id, "b_more": moved[batch_id]} for batch_id in sorted(moved)])


def _moved(connection: sa.Connection, scorer_id: int, batches: list[int], turned: list[int]) -> dict[int, Tally]:
    """Return by batch what its tally gains and loses."""
    columns = (Image.batch_id, Verdict.label, Verdict.doubted)
    counted = sa.select(*columns, sa.func.count().label("n")).join(Verdict, Verdict.id == Image.verdict_id)
    these = counted.where(Image.batch_id.in_(batches), Verdict.id.in_(turned)).group_by(*columns)
    found: dict[int, Tally] = defaultdict(Counter)
    for row in connection.execute(these):
        more = {f"review {row.label}": row.n, "doubted": row.n, f"{row.doubted} {row.label}": -row.n}
        found[row.batch_id].update({f"{scorer_id} {name}": n for name, n in more.items()})
    return found


def _mark_changed(connection: sa.Connection, batches: list[int], turned: list[int]) -> None:
    """Set `changed_at`, which the trigger does not: the verdicts changed, not the images' rows.

    Without waiting: who holds one of these images renews its answer, and may wait for its batch.
    """
    images = sa.select(Image.id).where(Image.batch_id.in_(batches), Image.verdict_id.in_(turned)).order_by(Image.id)
    free = images.with_for_update(key_share=True, skip_locked=True)
    connection.execute(sa.update(Image).where(Image.id.in_(free)).values(changed_at=now(connection)))


def _n(decision: str) -> sa.ScalarSelect[int]:
    """The number of a batch's current answers with a decision."""
    counted = sa.select(sa.func.count()).select_from(Image).join(Verdict, Verdict.id == Image.verdict_id)
    return counted.where(Image.batch_id == Batch.id, Verdict.decision == decision).scalar_subquery()
