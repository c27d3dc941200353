"""The tables of the refresh: labels, the trainings made from them, adapters, and which of them is in use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base, Leased, one_of

SPLITS = ("train", "calibration", "threshold", "golden", "none")
TRAINING_STATES = ("ready", "leased", "done", "failed", "cancelled")
GATE_VERDICTS = ("promote", "hold", "reject")


class LabelledImage(Base):
    """A labelled image, by its bytes: its perceptual hash, and the split that it belongs to permanently."""

    __tablename__ = "labelled_images"
    __table_args__ = (one_of("split", SPLITS), sa.Index(None, "cluster"), sa.Index(None, "added_at"))

    content_sha256: Mapped[str] = mapped_column(primary_key=True)
    uri: Mapped[str]  # where its bytes were found last
    root: Mapped[str | None]  # the folder a local file must not leave
    etag: Mapped[str | None]
    width: Mapped[int]  # pixels, upright
    height: Mapped[int]
    phash: Mapped[str] = mapped_column("look", key="phash")  # perceptual hash, hexadecimal
    given_group: Mapped[str | None]  # a bag, a session: as the person gave it
    cluster: Mapped[
        str
    ]  # images of one group or with near hashes: they share a split, and a bootstrap samples them together
    split: Mapped[str]  # "none": it lies between two clusters of different splits, and may be used in neither
    added_at: Mapped[datetime]


class Label(Base):
    """A person's label of an image. Rows are added, never changed."""

    __tablename__ = "labels"
    __table_args__ = (
        sa.Index(None, "check_name", "content_sha256"),
        sa.Index(None, "check_name", "id"),  # the newest, and what is newer than something
        sa.Index(None, "check_name", "origin"),  # whether a golden set was chosen
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    check_name: Mapped[str]
    content_sha256: Mapped[str]
    uri: Mapped[str | None]
    label: Mapped[str]
    boxes: Mapped[list[Any] | None]  # [{x0, y0, x1, y1, label}], pixels of the upright image; perhaps with attributes
    who: Mapped[str]
    shown: Mapped[dict[str, Any] | None]  # the verdict that the person saw: label, decision, score, margin, scorer
    origin: Mapped[str]  # person, import, review; golden: imported to be in this check's golden set; synthetic
    at: Mapped[datetime]
    undoes: Mapped[int | None]  # this row only withdraws an earlier one
    settles: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # ends a conflict between people
    drawn: Mapped[str | None]  # why a person was asked about this image: threshold, disagreement, diversity, random
    note: Mapped[str | None]
    attributes: Mapped[dict[str, Any] | None]  # name -> text: size, material ...; those of a region are in its box


class Training(Leased, Base):
    """One run from labels to a judged adapter. Leased like a batch: an owner without heartbeat loses it."""

    __tablename__ = "trainings"
    __table_args__ = (
        one_of("state", TRAINING_STATES),
        one_of("verdict", GATE_VERDICTS),
        sa.Index(None, "state", "id"),
        sa.Index(None, "check_name", "base_model", "id"),
    )

    check_id: Mapped[int] = mapped_column(sa.ForeignKey("checks.id"))
    check_name: Mapped[str]
    base_model: Mapped[str]
    recipe: Mapped[str]  # its name
    overrides: Mapped[dict[str, Any]]  # of the recipe's fields, by a person
    seed: Mapped[int]
    reason: Mapped[str]  # why it was started, as text
    who: Mapped[str | None]  # a person; None: the training worker
    newest_label: Mapped[int]  # labels with a higher id are not used
    stage: Mapped[str | None]  # the current stage
    progress: Mapped[dict[str, Any] | None]  # step, steps, epoch, loss, seconds_left ...
    adapter_id: Mapped[int | None]  # its result
    champion_id: Mapped[int | None]  # the adapter it was compared with; None: the base alone
    verdict: Mapped[str | None]
    report: Mapped[dict[str, Any] | None]  # all its figures
    error: Mapped[str | None]  # why it failed, in one line
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Adapter(Base):
    """A fine-tuned version of a base model for a check."""

    __tablename__ = "adapters"
    __table_args__ = (sa.UniqueConstraint("check_name", "base_model", "weights_sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    check_name: Mapped[str]
    check_hash: Mapped[str]
    base_model: Mapped[str]
    base_revision: Mapped[str]
    uri: Mapped[str]  # folder or s3:// prefix that holds the files
    weights_sha256: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    calibrator: Mapped[dict[str, Any] | None]
    thresholds: Mapped[dict[str, Any] | None]
    canary: Mapped[dict[str, Any] | None]
    training_id: Mapped[int | None]  # that produced it; None: it was imported
    gate: Mapped[dict[str, Any] | None]  # all figures of the comparison with the champion at that time
    gate_verdict: Mapped[str | None]  # promote, hold, reject; None: never judged
    created_at: Mapped[datetime]


class Champion(Base):
    """Which adapter is in use for a check and base model: one pointer, changed in one statement."""

    __tablename__ = "champions"

    check_name: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str] = mapped_column(primary_key=True)
    adapter_id: Mapped[int | None] = mapped_column(sa.ForeignKey("adapters.id"))  # None: the base alone, by decision
    since: Mapped[datetime]


class Promotion(Base):
    """Every change of a champion. Rows are added, never changed."""

    __tablename__ = "promotions"
    __table_args__ = (sa.Index(None, "check_name", "base_model", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    check_name: Mapped[str]
    base_model: Mapped[str]
    adapter_id: Mapped[int | None]
    previous_id: Mapped[int | None]
    kind: Mapped[str]  # shipped, gate, person, forced, rollback
    who: Mapped[str | None]
    why: Mapped[str]
    at: Mapped[datetime]


class Refusal(Base):
    """A worker's canary failed with an adapter: that worker continued with the previous one."""

    __tablename__ = "refusals"
    __table_args__ = (sa.Index(None, "adapter_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(sa.ForeignKey("adapters.id"))
    worker: Mapped[str]
    why: Mapped[str]
    at: Mapped[datetime]


class Calibration(Base):
    """Calibrator and thresholds of a scorer that its adapter has none for: a changed budget, prompt or crop pass.

    Rows are added, never changed: the newest one of a configuration counts. check_hash covers the question, the pixel
    budget and the crop pass.
    """

    __tablename__ = "calibrations"
    __table_args__ = (sa.Index(None, "check_hash", "base_model"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    check_name: Mapped[str]
    check_hash: Mapped[str]
    base_model: Mapped[str]
    base_revision: Mapped[str]
    precision: Mapped[str]
    weights_sha256: Mapped[str | None]  # of the adapter; None: the base alone
    calibrator: Mapped[dict[str, Any] | None]
    thresholds: Mapped[dict[str, Any] | None]  # margins, after all passes
    first_thresholds: Mapped[dict[str, Any] | None]  # margins of the first pass: between them it is uncertain
    metrics: Mapped[dict[str, Any]]
    who: Mapped[str | None]
    made_at: Mapped[datetime]
