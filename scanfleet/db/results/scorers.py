"""Scorers: one immutable scoring configuration per row, found by the hash over its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased

from scanfleet.checks.check import Check
from scanfleet.config.model_names import FAKE_MODELS
from scanfleet.db.engine import now
from scanfleet.db.tables import Adapter, Batch, CheckRow, Scan, ScorerRow
from scanfleet.errors import LedgerReplaced
from scanfleet.images.version import DECODING_VERSION

# Behind the mode of a base alone: how it is asked since it is not asked as in the first releases.
IMAGE_FIRST = ", image first"
ROTATED = ", menu rotated"  # in several orders


@dataclass(frozen=True, kw_only=True)
class ScorerSpec:
    """Everything that can change a margin or a decision."""

    check_id: int
    base_model: str
    base_revision: str
    precision: str
    adapter_id: int | None
    max_pixels: int
    crop: str
    calibrator: dict[str, Any] | None
    thresholds: dict[str, Any] | None
    decoding: int = DECODING_VERSION  # answers for other pixels of the same bytes are not reused
    likeness: str | None = None  # digest of what the adapter's calibration images look like
    mode: str | None = None  # as text; in the key only where it says how a base is asked: the rest follows

    @property
    def key(self) -> str:
        asked = "," in (self.mode or "")
        body = {name: value for name, value in asdict(self).items() if name != "mode" or asked}
        if self.likeness is None:
            del body["likeness"]  # the key that scorers had before there was one
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ScorerRef:
    """A scorer's row, and what it stands for: the rows that its key names by their ids included.

    A database that was restored gives the ids of lost rows to others, so an id alone is valid within its transaction.
    """

    id: int
    key: str
    check: Check  # of the scan; the row names it without explanations
    adapter_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How far the margins of n canary images lie from those stored with the adapter, in logits.

    Rounding differs from machine to machine, so this is not part of a scorer's identity.
    """

    max: float
    mean: float
    n: int
    against: str  # precision that the stored margins were computed in


@dataclass(frozen=True, kw_only=True)
class ScorerUse:
    """A scorer, and the number of images of a scan with its answer."""

    id: int
    base_model: str
    base_revision: str
    precision: str
    adapter: str | None  # SHA-256 of its weights; None: the base model alone
    calibrator: dict[str, Any] | None  # None: no calibrated score
    thresholds: dict[str, Any] | None  # margins; None: the sign of the margin decides
    n_images: int
    mode: str | None = (
        None  # zero-shot or zero-shot steps, with IMAGE_FIRST and ROTATED where they hold; lora, head, lora+head
    )
    shift: dict[str, Any] | None = None  # a Shift, the widest of all workers; None: no canary
    crop: str = "never"  # as `scanfleet.checks.crop.crop_text` has it
    n_low_mass: int = 0  # of n_images: the labels together are improbable answers
    n_far: int = 0  # of n_compared: far from the adapter's calibration images (scanfleet.stats.unlike)
    n_compared: int = 0  # of n_images: with those
    n_doubted: int = 0  # of n_images: a person decides because they are unlike those


def uses_of(connection: sa.Connection, counts: Mapping[int, Mapping[str, int]]) -> list[ScorerUse]:
    """Return these scorers, the most frequent first. counts: of each, as tallies name them, and `images`."""
    names = ("id", "base_model", "base_revision", "precision", "calibrator", "thresholds", "mode", "shift", "crop")
    query = (
        sa.select(*(ScorerRow.__table__.c[name] for name in names), Adapter.weights_sha256.label("adapter"))
        .outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)
        .where(ScorerRow.id.in_(counts))
    )
    found = [_use(row, counts[row.id]) for row in connection.execute(query)]
    return sorted(found, key=lambda use: (-use.n_images, use.id))


def _use(row: sa.Row[Any], n: Mapping[str, int]) -> ScorerUse:
    return ScorerUse(
        **row._mapping,
        n_images=n["images"],
        n_low_mass=n["low"],
        n_far=n["far"],
        n_compared=n["compared"],
        n_doubted=n["doubted"],
    )


def scorer_id(connection: sa.Connection, spec: ScorerSpec) -> int:
    """Return the id of this configuration, and add it if it is new. Safe for concurrent workers."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = asdict(spec) | {"key": spec.key, "created_at": now(connection)}
    connection.execute(dialect.insert(ScorerRow).values(row).on_conflict_do_nothing(index_elements=["key"]))
    return connection.execute(sa.select(ScorerRow.id).where(ScorerRow.key == spec.key)).scalar_one()


def outdated() -> sa.ColumnElement[bool]:
    """Return the condition for rows of a base alone that was asked as no worker asks now.

    The fake models are asked as ever, and so are those on a server if the check wants the instruction first.
    """
    of_check = aliased(CheckRow)
    wanted = sa.exists().where(
        of_check.id == ScorerRow.check_id, of_check.body["order"].as_string() == "instruction-first"
    )
    as_ever = sa.or_(ScorerRow.base_model.in_(FAKE_MODELS), sa.and_(ScorerRow.base_model.like("endpoint:%"), wanted))
    mode = sa.func.coalesce(ScorerRow.mode, "")
    return sa.and_(ScorerRow.adapter_id.is_(None), mode.in_(("zero-shot", "zero-shot steps")), ~as_ever)


@cache
def stored_scorer(dialect_name: str) -> sa.Label[Any]:
    """Return what the ledger holds of a batch's scorer, for a statement over batches (`require_scorer`)."""
    asked = aliased(CheckRow)
    array = sa.func.json_build_array if dialect_name == "postgresql" else sa.func.json_array
    columns = (ScorerRow.key, CheckRow.hash, asked.hash, Adapter.weights_sha256)
    return (
        sa.select(array(*columns, type_=sa.JSON()))
        .select_from(ScorerRow)
        .join(CheckRow, CheckRow.id == ScorerRow.check_id)
        .join(Scan, Scan.id == Batch.scan_id)
        .join(asked, asked.id == Scan.check_id)
        .outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)
        .where(ScorerRow.id == Batch.scorer_id)
        .correlate(Batch)
        .scalar_subquery()
        .label("scorer")
    )


_checks: dict[str, Check] = {}  # by hash: what a row of that hash holds never changes


def require_scorer(connection: sa.Connection, scorer: ScorerRef, stored: Sequence[str | None] | None) -> None:
    """Check that a row is still this scorer, and of the scan's check. Raises LedgerReplaced.

    stored: as `stored_scorer` finds it.
    """
    if stored is not None:
        key, of_scorer, asked, adapter_sha256 = stored
        found = (key, adapter_sha256, _check(connection, of_scorer), _check(connection, asked))
        if found == (scorer.key, scorer.adapter_sha256, scorer.check.unexplained(), scorer.check):
            return
    raise LedgerReplaced(f"scorer {scorer.id} is no longer the one that this worker uses (was the database restored?)")


def _check(connection: sa.Connection, hash_of_row: str | None) -> Check:
    assert hash_of_row is not None
    if hash_of_row not in _checks:
        body = connection.execute(sa.select(CheckRow.body).where(CheckRow.hash == hash_of_row).limit(1)).scalar_one()
        _checks[hash_of_row] = Check.model_validate(body)
    return _checks[hash_of_row]


def record_shift(connection: sa.Connection, scorer: int, shift: Shift) -> None:
    """Store a shift unless a wider one is stored. Safe for concurrent workers."""
    held = ScorerRow.shift
    narrower = sa.or_(held.is_(None), held["max"].as_float() < shift.max)
    connection.execute(sa.update(ScorerRow).where(ScorerRow.id == scorer, narrower).values(shift=asdict(shift)))
