"""A scan whose images are unlike those that its adapter was calibrated on: a person decides about all of them.

A batch in which many images are far has its scan looked at, in the transaction that writes the batch. Where the scan
is lost (`scanfleet.stats.unlike`), every decision so far by that scorer becomes a review, and `doubted` keeps what the
margin alone says. Batches of such a scan that are like the calibration, and come later, decide as ever.
"""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import Batch, Image, Scan, Verdict
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
    turned = connection.execute(
        sa.update(Verdict)
        .where(Verdict.id.in_(current), Verdict.scorer_id == scorer_id)
        .where(Verdict.unlike.is_not(None), Verdict.decision != "review")
        .values(decision="review", doubted=Verdict.decision)
        .returning(Verdict.id)
    ).scalars()
    _mark_changed(connection, batches, list(turned))
    connection.execute(
        sa.update(Batch).where(Batch.id.in_(batches)).values(n_flagged=_n("flag"), n_review=_n("review"))
    )


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
