"""Rescans: which answers of a scan a new champion may change, and which of the others to audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.results import rescans
from scanfleet.db.results.rescans import Aim, Pool
from scanfleet.db.scans.checks import get_check
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.errors import RequestError

DEFAULT_WIDTH = 1.0  # logits
DEFAULT_AUDIT, LEAST_AUDIT, MOST_AUDIT = 0.05, 100, 2000  # a fraction of the rest, and images
BROAD_SHARE = 0.9  # of all answers: a selection of more selects nothing
# Origins of the band, as stored with a rescan.
MEASURED = "nine in ten margins of golden images moved less from the champion before to this one"
GIVEN = "as asked for"
NOT_MEASURED = "the default: how far margins of golden images moved was not measured"
ORIGINS = {  # for people
    MEASURED: "nine in ten margins moved less",
    GIVEN: "--band",
    NOT_MEASURED: "the default, since no margins of golden images were measured",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `rescan`. band: logits. audit: below 1 a fraction, else a number; None: the default."""

    everything: bool = False
    band: float | None = None
    audit: float | None = None
    seed: int = 0
    fresh: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the values that distinguish one rescan from another."""
        if self.everything:
            return {"all": True}
        return {"band": self.band, "audit": self.audit, "seed": self.seed}

    def audit_size(self, n_rest: int) -> int:
        """Return the number of answers to audit, of those that should not change."""
        if self.everything:
            return 0
        if self.audit is None:
            wanted = min(max(round(DEFAULT_AUDIT * n_rest), LEAST_AUDIT), MOST_AUDIT)
        else:
            wanted = round(self.audit * n_rest) if self.audit < 1 else int(self.audit)
        return min(wanted, n_rest)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The selection of a rescan. filters: every choice, as its scan stores them. known: the scan, if it exists."""

    root: ScanInfo
    check_hash: str
    aim: Aim
    identity: str
    filters: dict[str, Any]
    known: ScanInfo | None

    @property
    def n_images(self) -> int:
        return int(self.filters["changeable"] + self.filters["audit"])

    @property
    def n_answers(self) -> int:
        return int(self.filters["current"] + self.filters["changeable"] + self.filters["audit_of"])

    @property
    def band_origin(self) -> str:
        """The origin of the band, for people."""
        return ORIGINS.get(self.filters["band_from"], str(self.filters["band_from"]))

    @property
    def broad_reason(self) -> str | None:
        """The reason why the selection takes nearly every answer; None if it does not, or for --all."""
        chosen = self.filters
        if chosen["band"] is None or not self.n_images or self.n_images < BROAD_SHARE * self.n_answers:
            return None
        if chosen["audit"] > chosen["changeable"]:
            return "most of it is the audit sample (--audit takes fewer)"
        if chosen["band_from"] == MEASURED:
            return "the two models' margins differ too much to tell what can change (--band takes fewer)"
        return "most answers are `review` or within the band (--band takes fewer)"


def plan_rescan(engine: sa.Engine, scan_id: str, request: Request) -> Plan:
    """Select the answers of a scan, or of the one that a rescan renews. Writes nothing.

    Raises UnknownName; RequestError for a running scan or a cancelled rescan.
    """
    with reading(engine, long=True) as connection:
        root = rescans.root_of(connection, scan_id)
        if root.state == "running":
            raise RequestError(
                f"scan {root.id} is still running: wait for it (`scanfleet scans watch {root.id}`), "
                f"or stop it (`scanfleet scans pause {root.id}`)"
            )
        aim = rescans.aim_of(connection, root)
        identity = rescans.identity_of(root, aim, request.as_dict(), fresh=request.fresh)
        known = rescans.find_rescan(connection, identity)
        if known is not None:
            refuse_cancelled(known)
        filters = _chosen(connection, root, aim, request) if known is None else known.filters
        check_hash = get_check(connection, root.check_id).scored_hash
    return Plan(root=root, check_hash=check_hash, aim=aim, identity=identity, filters=filters, known=known)


def _chosen(connection: sa.Connection, root: ScanInfo, aim: Aim, request: Request) -> dict[str, Any]:
    width, width_from = _width(connection, aim, request)
    counts = pool_of(root, aim.adapter_id, width).count(connection)
    return {
        "adapter": aim.adapter_id,
        "band": width,
        "band_from": width_from,
        "changeable": counts.n_changeable,
        "audit": request.audit_size(counts.n_rest),
        "audit_of": counts.n_rest,
        "current": counts.n_current,
        "seed": request.seed,
    }


def _width(connection: sa.Connection, aim: Aim, request: Request) -> tuple[float | None, str]:
    """Return the logits around a threshold, and the origin of the figure."""
    if request.everything:
        return None, "everything was asked for"
    if request.band is not None:
        return request.band, GIVEN
    move = rescans.margin_move(connection, aim)
    if move is None:
        return DEFAULT_WIDTH, NOT_MEASURED
    return move, MEASURED


def pool_of(root: ScanInfo, adapter_id: int | None, width: float | None) -> Pool:
    return Pool(scan_id=root.id, check_id=root.check_id, adapter_id=adapter_id, width=width)


def refuse_cancelled(scan: ScanInfo) -> None:
    """Raises RequestError."""
    if scan.state == "cancelled":
        raise RequestError(f"rescan {scan.id} was cancelled: start a new one with --fresh")
