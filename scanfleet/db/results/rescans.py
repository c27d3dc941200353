"""Rescans: find the answers of a scan that its current champion may change, and add a scan that renews them.

An answer can change when it is `review`, when its margin lies near a threshold of its scorer, or when a crop pass may
be due: where the first pass was uncertain, or would be if its margin moved. A uniform sample of the rest shows how
much is missed. Identities are SHA-256 digests: those that follow a random point in their order are such a
sample, found by an index without reading the others.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.checks.check import Check
from scanfleet.checks.crop import NEVER
from scanfleet.db.results.scorers import outdated
from scanfleet.db.scans import scans
from scanfleet.db.scans.checks import get_check, scored_check
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Image, Scan, ScorerRow, Verdict
from scanfleet.db.training.adapters import AdapterInfo, get_adapter
from scanfleet.db.training.champions import Change, champion, history

MARGIN_MOVE = "margin_move_p90"  # logits: of the figures of a gate record, between the two models it compared


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The champion of a rescan, and the change that put it in use; None: there was no change."""

    adapter: AdapterInfo | None  # None: the base alone
    change: Change | None

    @property
    def adapter_id(self) -> int | None:
        return None if self.adapter is None else self.adapter.id


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The answers of a scan: of the current champion, able to change, and others."""

    n_current: int
    n_changeable: int
    n_rest: int


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The answers of a scan that are not of its current champion.

    adapter_id: the champion's. width: logits on either side of a threshold; None: every answer can change.
    """

    scan_id: str
    check_id: int
    adapter_id: int | None
    width: float | None

    def count(self, connection: sa.Connection) -> Counts:
        """Count the answers. Reads each answer of the scan once."""
        current, changeable = self._conditions(connection)
        n_current, n_near, n_all = (
            sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*which), 1), else_=0)), 0)
            for which in ([current], [~current, changeable], [sa.true()])
        )
        row = connection.execute(_answered(self.scan_id, n_current, n_near, n_all)).one()
        mine, near, total = (int(value) for value in row)
        return Counts(n_current=mine, n_changeable=near, n_rest=total - mine - near)

    def changeable(self, connection: sa.Connection, *, after: int, limit: int) -> list[NewImage]:
        """Return answers that can change, by image id, after one."""
        current, changeable = self._conditions(connection)
        drawn = "all" if self.width is None else "band"
        where = (~current, changeable, Image.id > after)
        return self._images(connection, where, drawn=drawn, order=Image.id, limit=limit)

    def rest(self, connection: sa.Connection, *, after: str, until: str, limit: int) -> list[NewImage]:
        """Return the others, by identity, between two."""
        current, changeable = self._conditions(connection)
        where = (~current, ~changeable, Image.identity > after, Image.identity <= until)
        return self._images(connection, where, drawn="audit", order=Image.identity, limit=limit)

    def _images(
        self,
        connection: sa.Connection,
        where: Sequence[sa.ColumnElement[bool]],
        *,
        drawn: str,
        order: orm.InstrumentedAttribute[Any],
        limit: int,
    ) -> list[NewImage]:
        columns = (Image.id, Image.uri, Image.root, Image.etag, Image.seen_etag, Image.size, Image.meta)
        query = _answered(self.scan_id, *columns).where(*where).order_by(order).limit(limit)
        return [
            NewImage(
                uri=row.uri,
                root=row.root,
                etag=row.etag or row.seen_etag,
                size=row.size,
                meta=row.meta,
                rescan_of=row.id,
                drawn=drawn,
            )
            for row in connection.execute(query)
        ]

    def _conditions(self, connection: sa.Connection) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
        """Return two conditions: the answer is of the champion; another champion may change it."""
        names = (ScorerRow.id, ScorerRow.adapter_id, ScorerRow.thresholds, ScorerRow.calibrator, ScorerRow.crop)
        of_check = ScorerRow.check_id == scored_check(connection, self.check_id)
        scorers = connection.execute(sa.select(*names, outdated().label("outdated")).where(of_check)).all()
        current = Verdict.scorer_id.in_(
            [row.id for row in scorers if row.adapter_id == self.adapter_id and not row.outdated]
        )
        if self.width is None:
            return current, sa.true()
        check = get_check(connection, self.check_id)
        flags = bool(check.flags)
        near = [
            sa.and_(Verdict.scorer_id == row.id, Verdict.margin.between(edge - self.width, edge + self.width))
            for row in scorers
            for edge in {
                *edges(row.thresholds if flags else None, row.calibrator if flags else None),
                *gate_edges(check, row.crop),
            }
        ]
        looked_again = sa.and_(Verdict.crop.is_not(None), Verdict.crop["why"].as_string() == "uncertain")
        return current, sa.or_(Verdict.decision == "review", *near, looked_again)


def edges(thresholds: dict[str, Any] | None, calibrator: dict[str, Any] | None) -> list[float]:
    """Return the margins at which a scorer's decision changes. Without thresholds: an even chance, or the sign."""
    if thresholds is not None:
        return sorted({edge for edge in (thresholds.get("review"), thresholds.get("flag")) if edge is not None})
    return [0.0] if calibrator is None else [-calibrator["b"] / calibrator["a"]]


def gate_edges(check: Check, crop: str) -> list[float]:
    """Return the margins of a first pass at which a scorer's gate changes. crop: as in its row."""
    if isinstance(check.crop, str) or crop == NEVER or check.crop.when not in ("uncertain", "uncertain-or-shrunk"):
        return []
    ends = json.loads(crop)["uncertain"]
    out = ((ends["low"], -check.crop.band), (ends["high"], check.crop.band))
    return [end + band for end, band in out if end is not None]


def _answered(scan_id: str, *columns: Any) -> sa.Select[Any]:
    query = sa.select(*columns).select_from(Image).join(Verdict, Verdict.id == Image.verdict_id)
    return query.where(Image.scan_id == scan_id, Image.state == "verdict")


def root_of(connection: sa.Connection, scan_id: str) -> ScanInfo:
    """Return the scan whose answers are renewed; for a rescan, the one that it renews. Raises UnknownName."""
    found = scans.get_scan(connection, scan_id)
    return found if found.rescan_of is None else scans.get_scan(connection, found.rescan_of)


def aim_of(connection: sa.Connection, scan: ScanInfo) -> Aim:
    """Return the current champion for a scan's check and model."""
    changes = history(connection, scan.check, scan.model, limit=1)
    return Aim(adapter=champion(connection, scan.check, scan.model), change=changes[0] if changes else None)


def margin_move(connection: sa.Connection, aim: Aim) -> float | None:
    """Return the .9 quantile of the change of golden margins from the previous champion to this one, in logits.

    None where the two were never compared. After a rollback the comparison is that of the removed adapter.
    """
    if aim.change is None:
        return None
    judged = aim.change.previous_id if aim.change.kind == "rollback" else aim.adapter_id
    gate = None if judged is None else get_adapter(connection, judged).gate
    move = ((gate or {}).get("figures") or {}).get(MARGIN_MOVE)
    return None if move is None else float(move)


def identity_of(root: ScanInfo, aim: Aim, asked: dict[str, Any], *, fresh: bool) -> str:
    """Return the identity: the same request after the same promotion is the same rescan. fresh: make another one."""
    salt = secrets.token_hex(8) if fresh else ""
    change = None if aim.change is None else aim.change.id
    body = json.dumps(["rescan", root.id, change, aim.adapter_id, asked, salt], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def find_rescan(connection: sa.Connection, identity: str) -> ScanInfo | None:
    known = connection.execute(sa.select(Scan.id).where(Scan.identity == identity)).scalar_one_or_none()
    return None if known is None else scans.get_scan(connection, known)


def add_rescan(
    connection: sa.Connection, root: ScanInfo, *, identity: str, filters: dict[str, Any], cursor: dict[str, Any]
) -> ScanInfo:
    """Add a scan without images, whose answers become those of `root`."""
    return scans.add_scan(
        connection,
        identity=identity,
        check_id=root.check_id,
        model=root.model,
        queue=root.queue,
        sources=list(root.sources),
        filters=filters,
        cursor=cursor,
        rescan_of=root.id,
        roots=connection.execute(sa.select(Scan.roots).where(Scan.id == root.id)).scalar_one(),
    )
