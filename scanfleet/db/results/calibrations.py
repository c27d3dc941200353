"""Calibrators and thresholds of scorers without one in an adapter; the newest one of a configuration counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import Calibration


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The configuration that a calibrator belongs to.

    check_hash: as `hash_for` makes it. weights_sha256: of the adapter; None: the base alone.
    """

    check_hash: str
    base_model: str
    base_revision: str
    precision: str
    weights_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted calibrator. thresholds: margins after all passes; first_thresholds: of the first pass, for the gate."""

    calibrator: dict[str, Any] | None
    thresholds: dict[str, Any] | None
    first_thresholds: dict[str, Any] | None


def hash_for(check_hash: str, *, asked: str) -> str:
    """Return the check's hash, marked by how a base alone is asked (behind its mode): other margins."""
    return check_hash + asked


def add_calibration(
    connection: sa.Connection,
    configuration: Configuration,
    fitted: Fitted,
    *,
    check_name: str,
    metrics: dict[str, Any],
    who: str | None,
) -> int:
    """Add a calibration, which counts from now on. Returns the id of its row."""
    record = {"check_name": check_name, "metrics": metrics, "who": who, "made_at": now(connection)}
    values = asdict(configuration) | asdict(fitted) | record
    return connection.execute(sa.insert(Calibration).values(values).returning(Calibration.id)).scalar_one()


def calibration_for(connection: sa.Connection, configuration: Configuration) -> Fitted | None:
    """Return the newest one; None: there is none for exactly this configuration."""
    columns = [Calibration.__table__.c[name] for name in ("calibrator", "thresholds", "first_thresholds")]
    same = [Calibration.__table__.c[name].is_not_distinct_from(value) for name, value in asdict(configuration).items()]
    row = connection.execute(sa.select(*columns).where(*same).order_by(Calibration.id.desc()).limit(1)).one_or_none()
    return None if row is None else Fitted(**row._mapping)
