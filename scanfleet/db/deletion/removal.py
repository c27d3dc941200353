"""Delete images with all their rows, and keep the counts of their batches: a page is one short transaction.

Locks: batches, then verdicts, then images, as a worker that writes a batch takes them; the images that a rescan renews
before their batches, as in db/results/rescan_writes.py. A worker that holds one of these images loses its lease: it
writes nothing of that batch, and the next worker scores what is left of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.deletion.answers import hand_on, keep_standing, lock_verdicts
from scanfleet.db.engine import now
from scanfleet.db.locks import hold
from scanfleet.db.scans.scans import finish_if_complete
from scanfleet.db.tables import Batch, Failure, Image, Verdict
from scanfleet.db.tallies import tally
from scanfleet.stats.unlike import FAR

PAGE_IMAGES = 500


class StillRenewedError(Exception):
    """Images of rescans renew these: they go first."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a page took, or all of them. n_kept: answers of rescans that went on standing."""

    n_images: int = 0
    n_verdicts: int = 0
    n_kept: int = 0
    contents: frozenset[str] = frozenset()  # SHA-256 of the bytes, of this page alone

    def __add__(self, other: Removed) -> Removed:
        n_images, n_verdicts = self.n_images + other.n_images, self.n_verdicts + other.n_verdicts
        return Removed(n_images=n_images, n_verdicts=n_verdicts, n_kept=self.n_kept + other.n_kept)


def remove_images(connection: sa.Connection, image_ids: Sequence[int]) -> Removed:
    """Delete at most a page of images; those of another transaction that deletes them, too, are left out.

    Raises StillRenewedError, and then nothing may be committed.
    """
    of_images = sa.select(Image.batch_id).where(Image.id.in_(image_ids))
    hold(connection, Batch, Batch.id.in_(list(connection.execute(of_images.distinct()).scalars())))
    verdicts = lock_verdicts(connection, image_ids)
    images = _lock_images(connection, image_ids)
    ids = [image.id for image in images]
    if not ids:
        return Removed()
    if connection.execute(sa.select(Image.id).where(Image.rescan_of.in_(ids)).limit(1)).first() is not None:
        raise StillRenewedError
    answers = _answers(connection, ids)
    kept = keep_standing(connection, images, verdicts)
    gone = {verdict.id for verdict in verdicts} - kept.keys()
    if gone:
        hand_on(connection, images, gone)
    of_these = Image.id.in_(ids)
    connection.execute(sa.update(Image).where(of_these).values(verdict_id=None, replaced=None))
    connection.execute(sa.delete(Failure).where(Failure.image_id.in_(ids)))
    connection.execute(sa.delete(Verdict).where(Verdict.id.in_(gone)))
    connection.execute(sa.delete(Image).where(of_these))
    _settle_batches(connection, images, verdicts, answers)
    contents = frozenset(each.content_sha256 for each in (*images, *verdicts) if each.content_sha256 is not None)
    return Removed(n_images=len(ids), n_verdicts=len(gone), n_kept=len(kept), contents=contents)


def _lock_images(connection: sa.Connection, image_ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
    names = ("id", "scan_id", "batch_id", "state", "verdict_id", "replaced", "rescan_of", "content_sha256")
    query = sa.select(*(Image.__table__.c[name] for name in names)).where(Image.id.in_(image_ids))
    return connection.execute(query.order_by(Image.id).with_for_update()).all()


def _answers(connection: sa.Connection, image_ids: Sequence[int]) -> dict[int, sa.Row[Any]]:
    """Return the current answer of each image, as tallies need it."""
    query = sa.select(Image.id, *tally.COLUMNS).join(Verdict, Verdict.id == Image.verdict_id)
    return {row.id: row for row in connection.execute(query.where(Image.id.in_(image_ids)))}


def _settle_batches(
    connection: sa.Connection,
    images: Sequence[sa.Row[Any]],
    verdicts: Sequence[sa.Row[Any]],
    answers: dict[int, sa.Row[Any]],
) -> None:
    """Take the images out of the counts; end or delete batches that hold nothing more to do, or nothing at all."""
    lost: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    tallies: dict[int, tally.Tally] = defaultdict(Counter)
    for image in images:
        counts = lost[image.batch_id]
        counts["n_images"] += 1
        counts["n_verdicts"] += image.state == "verdict"
        counts["n_failures"] += image.state == "failed"
        if image.id in answers:
            counts["n_flagged"] += answers[image.id].decision == "flag"
            counts["n_review"] += answers[image.id].decision == "review"
            tallies[image.batch_id].update(tally.of_rows([answers[image.id]]))
    batch_of = {image.id: image.batch_id for image in images}
    for verdict in verdicts:
        counts = lost[batch_of[verdict.image_id]]
        counts["n_reused"] += verdict.reused_from is not None
        counts["n_compared"] += verdict.unlike is not None
        counts["n_unlike"] += verdict.unlike is not None and verdict.unlike >= FAR
    for batch_id in sorted(lost):
        columns = Batch.__table__.c
        values: dict[str, Any] = {name: columns[name] - by for name, by in lost[batch_id].items() if by}
        if batch_id in tallies:
            less = {name: -n for name, n in tallies[batch_id].items()}
            values["tally"] = tally.tally_with(tally.literal(less))
        connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(values))
    opened = {image.batch_id for image in images if image.state == "pending"}
    _take_back(connection, sorted(opened))
    connection.execute(sa.delete(Batch).where(Batch.id.in_(lost), Batch.n_images == 0))
    for scan_id in sorted({image.scan_id for image in images if image.state == "pending"}):
        finish_if_complete(connection, scan_id)


def _take_back(connection: sa.Connection, batch_ids: Sequence[int]) -> None:
    """End the leases of batches that lost pending images: whoever holds one has these images in its claim."""
    these = Batch.id.in_(batch_ids)
    anew = leases.READY | {"lease_token": Batch.lease_token + 1, "attempts": Batch.attempts - 1, "in_hand": None}
    connection.execute(sa.update(Batch).where(these, Batch.state == "leased").values(anew))
    pending = sa.exists().where(Image.batch_id == Batch.id, Image.state == "pending")
    ended = {"state": "done", "finished_at": now(connection), "not_before": None, "waiting_for": None}
    connection.execute(sa.update(Batch).where(these, Batch.state == "ready", ~pending).values(ended))
