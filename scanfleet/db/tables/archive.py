"""What is asked of which images, and who answers: checks, scans, batches, images, failures, workers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base, Leased, one_of
from scanfleet.db.tables.indexes import partial, pointers

SCAN_STATES = ("running", "paused", "cancelled", "done")
BATCH_STATES = ("ready", "leased", "done", "cancelled")
IMAGE_STATES = ("pending", "verdict", "failed", "cancelled")


class CheckRow(Base):
    __tablename__ = "checks"
    __table_args__ = (sa.UniqueConstraint("name", "hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    hash: Mapped[str]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    added_at: Mapped[datetime | None]  # by `checks add`; None: stored because a scan used it


class Scan(Base):
    __tablename__ = "scans"
    __table_args__ = (
        one_of("state", SCAN_STATES),
        sa.Index(None, "pass_id"),
        sa.Index(None, "state"),
        sa.Index(None, "n_listed", **partial("state = 'done' AND sums IS NULL")),  # those whose sums are to be kept
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    identity: Mapped[str] = mapped_column(unique=True)  # check, model, sources and filters: the same scan twice is one
    check_id: Mapped[int] = mapped_column(sa.ForeignKey("checks.id"))
    model: Mapped[str]
    queue: Mapped[str]
    sources: Mapped[list[Any]]  # as given
    filters: Mapped[dict[str, Any]]
    state: Mapped[str]
    cursor: Mapped[dict[str, Any] | None]  # position of the listing
    n_listed: Mapped[int | None]  # images; set with the last page of the listing
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    trouble: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # consecutive batches that found the store unavailable
    not_before: Mapped[datetime | None]  # until then no claims and no notifications: the store is unavailable
    waiting_for: Mapped[str | None]  # the store's error
    rescan_of: Mapped[str | None]  # the scan whose answers this one renews
    pass_id: Mapped[str | None]  # scans of other checks with the same one read the same images once
    roots: Mapped[dict[str, Any] | None]  # folder -> inode when it was listed; an empty mount point has another one
    kind: Mapped[str | None]  # request: of the HTTP API, left out of listings; None: an archive
    sums: Mapped[dict[str, Any] | None]  # over its batches (scanfleet.db.tallies.scan_sums); None: not kept
    limits: Mapped[dict[str, Any] | None]  # what pauses it (scanfleet.db.fleet.limits); None: nothing does


_COUNTS = [
    *("n_images", "n_verdicts", "n_failures", "n_reused", "n_flagged", "n_review"),
    *("state", "lease_token", "scorer_id"),
]


class Batch(Leased, Base):
    __tablename__ = "batches"
    __table_args__ = (
        one_of("state", BATCH_STATES),
        sa.Index(None, "state", "queue", "id"),
        sa.Index(None, "scan_id", "state"),
        # For readers: the batches of a scan in order, and its counts without its rows.
        sa.Index(None, "scan_id", "id", postgresql_include=_COUNTS).ddl_if(dialect="postgresql"),
        # For notifications: of a long archive most batches are ready, few of them notified.
        sa.Index("ix_batches_unnotified", "id", **partial("state = 'ready' AND notified_at IS NULL")),
        sa.Index(None, "notified_at", **partial("state = 'ready' AND notified_at IS NOT NULL")),
        sa.Index("ix_batches_urgent", "id", **partial("urgent IS NOT NULL AND state = 'ready'")),
    )

    scan_id: Mapped[str] = mapped_column(sa.ForeignKey("scans.id"))
    queue: Mapped[str]
    n_images: Mapped[int]
    n_verdicts: Mapped[int] = mapped_column(default=0)
    n_failures: Mapped[int] = mapped_column(default=0)
    n_reused: Mapped[int] = mapped_column(default=0)  # of n_verdicts: taken over from an earlier scoring
    n_flagged: Mapped[int] = mapped_column(default=0)
    n_review: Mapped[int] = mapped_column(default=0)
    scorer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("scorers.id"))
    finished_at: Mapped[datetime | None]
    seconds: Mapped[
        dict[str, Any] | None
    ]  # sums by name (scanfleet.stats.stage_times), of the attempt that closed the batch
    suspect: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # a lease expired: run it alone
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")  # leases that expired since the last result
    n_unlike: Mapped[int | None]  # verdicts whose `unlike` is far (scanfleet.stats.unlike)
    n_compared: Mapped[int | None]  # verdicts with an `unlike`
    in_hand: Mapped[int | None]  # the image that a suspect batch works on: it is blamed if this lease expires too
    worker: Mapped[str | None]  # that wrote its newest results; kept when the lease ends
    urgent: Mapped[bool | None]  # claimed before all others: a person waits for it
    tally: Mapped[dict[str, Any] | None]  # of current answers (scanfleet.db.tallies.tally); None: not tallied
    n_bytes: Mapped[int | None]  # of its images, as listed; an unknown size counts as 0. None: of a release before


class Image(Base):
    __tablename__ = "images"
    __table_args__ = (
        one_of("state", IMAGE_STATES),
        sa.UniqueConstraint("scan_id", "identity"),
        sa.Index(None, "batch_id"),
        # No index has a column that an answer changes, and each page has space for the answers of its images: so
        # PostgreSQL writes them beside the rows, and no index (heap-only tuples).
        sa.Index(None, "scan_id", "id"),
        sa.Index(None, "uri", postgresql_ops={"uri": "text_pattern_ops"}),
        sa.Index(None, "changed_at", "id", **partial("changed_at IS NOT NULL")),
        *(pointers("images", name) for name in ("rescan_of", "replaced")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    scan_id: Mapped[str] = mapped_column(sa.ForeignKey("scans.id"))
    batch_id: Mapped[int] = mapped_column(sa.ForeignKey("batches.id"))
    uri: Mapped[str]
    root: Mapped[str | None]  # the folder a local file must not leave
    etag: Mapped[str | None]
    size: Mapped[int | None]  # bytes
    seen_etag: Mapped[str | None]  # of the version that was read first, where none was listed
    identity: Mapped[str]  # hash of uri and etag
    meta: Mapped[dict[str, Any] | None]  # pass-through columns of a manifest
    state: Mapped[str]
    verdict_id: Mapped[int | None]  # the answer: the newest verdict
    content_sha256: Mapped[str | None]  # of an image that was blamed for a crash, and of answers before 0017
    width: Mapped[int | None]  # pixels, upright
    height: Mapped[int | None]
    crashes: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # workers that ended while working on this image
    rescan_of: Mapped[int | None]  # the image of another scan whose answer is renewed with this one's
    drawn: Mapped[str | None]  # why a rescan chose it: band, audit, all
    replaced: Mapped[int | None]  # of a rescan: the verdict that this image's replaced
    # When its state or answer changed, but for its own first answer, which has `verdicts.created_at`; a trigger sets
    # it, whoever writes (docs/database.md).
    changed_at: Mapped[datetime | None]


class Failure(Base):
    """An image that could not be scored. At most one per image; a retry deletes it."""

    __tablename__ = "failures"
    __table_args__ = (sa.Index(None, "scan_id", "stage", "reason"),)

    image_id: Mapped[int] = mapped_column(sa.ForeignKey("images.id"), primary_key=True)
    scan_id: Mapped[str] = mapped_column(sa.ForeignKey("scans.id"))
    stage: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    at: Mapped[datetime]


class Forgotten(Base):
    """The hash of an image's name that no listing takes again (scanfleet.db.scans.forgotten)."""

    __tablename__ = "forgotten"

    uri_sha256: Mapped[str] = mapped_column(primary_key=True)
    scan_id: Mapped[str] = mapped_column(primary_key=True)  # "*": for every scan
    at: Mapped[datetime]


# Of PostgreSQL alone, whose ledgers are large: the highest scores of a scan, the answers nearest to a threshold, and
# those that are not clear.


class Worker(Base):
    __tablename__ = "workers"
    __table_args__ = (sa.Index(None, "reconciled_at"), sa.Index(None, "queue", **partial("stopped_at IS NULL")))

    id: Mapped[str] = mapped_column(primary_key=True)  # host-pid-random
    host: Mapped[str]
    pid: Mapped[int]
    queue: Mapped[str]
    device: Mapped[str]
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    n_images: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[dict[str, Any] | None]  # sums by name (scanfleet.stats.stage_times) since the start
    stopped_at: Mapped[datetime | None]
    progress_at: Mapped[datetime | None]  # the last progress, not only a heartbeat
    ended_because: Mapped[str | None]  # why a worker ended itself
    waiting_for: Mapped[str | None]  # the error, while it cannot start
    reconciled_at: Mapped[datetime | None]  # the last time: one worker of the fleet does
    model: Mapped[str | None]
    device_kind: Mapped[str | None]  # the card's name, or cpu
    ready_at: Mapped[datetime | None]  # when it could take its first batch
    load_seconds: Mapped[float | None]  # from its start to then
    drain_at: Mapped[datetime | None]  # when a person asked it to end; it reads that with its heartbeat
