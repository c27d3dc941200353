"""What a scorer is, and what it said of an image."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base, one_of
from scanfleet.db.tables.indexes import of_sqlite, pointers

DECISIONS = ("clear", "review", "flag")


class ScorerRow(Base):
    """One immutable scoring configuration; `key` is the hash over the columns that can change a margin."""

    __tablename__ = "scorers"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    check_id: Mapped[int] = mapped_column(sa.ForeignKey("checks.id"))
    base_model: Mapped[str]
    base_revision: Mapped[str]
    precision: Mapped[str]
    adapter_id: Mapped[int | None] = mapped_column(sa.ForeignKey("adapters.id"))
    max_pixels: Mapped[int]
    crop: Mapped[str]
    calibrator: Mapped[dict[str, Any] | None]  # None: the score is not a calibrated probability
    thresholds: Mapped[dict[str, Any] | None]
    likeness: Mapped[str | None]  # digest of the summary of the calibration images; None: the adapter has none
    decoding: Mapped[int | None]  # version of decoding (scanfleet.images.version); None: the first
    mode: Mapped[str | None]  # as in `scanfleet.db.results.scorers.ScorerUse`
    created_at: Mapped[datetime]
    # Widest move of the canary's margins on any machine: max, mean (logits), n (images), against (precision).
    shift: Mapped[dict[str, Any] | None]


_FOR_READERS = (
    sa.Index(
        "ix_verdicts_scan_id_score_margin",
        "scan_id",
        sa.text("score DESC NULLS LAST"),
        sa.text("margin DESC NULLS LAST"),
    ).ddl_if(dialect="postgresql"),
    sa.Index(None, "scorer_id", "margin").ddl_if(dialect="postgresql"),
    sa.Index(
        "ix_verdicts_unclear", "scorer_id", "content_sha256", postgresql_where=sa.text("decision <> 'clear'")
    ).ddl_if(dialect="postgresql"),
    sa.Index(None, "scan_id").ddl_if(dialect="sqlite"),
)


class Verdict(Base):
    """The answer of one scorer for one image."""

    __tablename__ = "verdicts"
    __table_args__ = (
        sa.UniqueConstraint("image_id", "scorer_id"),
        one_of("decision", DECISIONS),
        sa.Index(None, "content_sha256", "scorer_id"),
        sa.Index(None, "scorer_id", "identity"),
        *_FOR_READERS,
        # Verdicts lie in the order of their times: on PostgreSQL an index of their ranges costs an answer nothing.
        sa.Index(None, "created_at", postgresql_using="brin"),
        pointers("verdicts", "reused_from"),
        # PostgreSQL would lock three rows for each verdict, and write that down. Writers compare the batch, its images
        # and the scorer with the ledger, and `scanfleet db check` finds what points to nothing.
        *(of_sqlite(*pointer) for pointer in (("image_id", "images"), ("scan_id", "scans"), ("scorer_id", "scorers"))),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int]
    scan_id: Mapped[str]
    scorer_id: Mapped[int]
    identity: Mapped[str]  # of the image, as listed
    content_sha256: Mapped[str]
    label: Mapped[str]
    decision: Mapped[str]
    score: Mapped[float | None]  # calibrated probability of a flag; None without a calibrator
    margin: Mapped[float]  # logits
    mass: Mapped[float]  # probability of all label tokens together
    logits: Mapped[list[Any]]  # one per label, in the check's order
    boxes: Mapped[list[Any] | None]  # None: not asked for; [{x0, y0, x1, y1, label, score}], pixels of the image
    box_problems: Mapped[list[Any] | None]  # messages
    crop: Mapped[dict[str, Any] | None]  # the crop pass (scanfleet.checks.crop_result); None: the check has none
    frames: Mapped[dict[str, Any] | None]  # scanfleet.checks.frame_result; None: the file holds one picture
    notes: Mapped[list[Any] | None]  # what decoding chose where viewers differ
    explanation: Mapped[dict[str, Any] | None]  # scanfleet.checks.explanation; None: not asked for, or not flagged
    unlike: Mapped[float | None]  # scanfleet.stats.unlike; None: no adapter, or one that does not know
    doubted: Mapped[str | None]  # the decision by the margin alone, where a review stands for an unlike image
    reused_from: Mapped[int | None]  # the verdict that this one copies; itself: that one was deleted
    created_at: Mapped[datetime]  # when it was written
    computed_at: Mapped[datetime | None]  # of a copy: when its original was written; None: at `created_at`
