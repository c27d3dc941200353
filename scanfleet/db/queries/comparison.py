"""Two scans, or the answers of two adapters, image by image: paired and counted in the database.

Margins are shown side by side and never compared: two scorers' logits have no common scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from scanfleet.db.results.answers import content_of
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.scans.scans import ScanInfo, get_scan, list_rescans
from scanfleet.db.tables import Adapter, CheckRow, Image, Scan, ScorerRow, Verdict
from scanfleet.db.training.adapters import adapters_named
from scanfleet.errors import RequestError, UnknownName

By = Literal["uri", "content"]
_VALUES = ("decision", "label", "margin")


@dataclass(frozen=True, kw_only=True)
class Side:
    """A scan with the answers that stand, or all answers of adapters, the newest of each image. checks: their names."""

    name: str
    scan: ScanInfo | None
    adapters: tuple[int | None, ...]
    checks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Images with these decisions; None: no answer. in_a, in_b: the side knows the image."""

    a: str | None
    b: str | None
    in_a: bool
    in_b: bool
    n: int


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image that both sides decide differently. margins: logits, each of its own scorer."""

    uri: str
    a_decision: str
    a_label: str
    a_margin: float
    b_decision: str
    b_label: str
    b_margin: float


def side_of(connection: sa.Connection, name: str) -> Side:
    """Return the scan or adapter of this name; `scan:` or `adapter:` before it says which. Raises UnknownName."""
    kind, colon, rest = name.partition(":")
    if colon and kind not in ("scan", "adapter"):
        raise RequestError(f"{name}: write scan:ID or adapter:ID")
    scan = _scan(connection, rest or name) if kind != "adapter" or not colon else None
    adapters = _adapters(connection, rest or name) if kind != "scan" or not colon else {}
    if scan is not None and adapters:
        raise RequestError(f"{name} is a scan and an adapter: write scan:{name} or adapter:{name}")
    if scan is not None:
        return Side(name=f"scan {scan.id}", scan=scan, adapters=(), checks=(scan.check,))
    if not adapters:
        raise UnknownName(f"no scan and no adapter {name!r}: `scanfleet scans ls` and `adapters ls` list them")
    checks = tuple(sorted({check for check in adapters.values() if check is not None}))
    return Side(name=f"adapter {rest or name}", scan=None, adapters=tuple(adapters), checks=checks)


def _scan(connection: sa.Connection, name: str) -> ScanInfo | None:
    try:
        return get_scan(connection, name)
    except UnknownName:
        return None


def _adapters(connection: sa.Connection, name: str) -> dict[int | None, str | None]:
    """Return adapter -> its check; none, the base model alone, is of any check."""
    if name == "none":
        return {None: None}
    try:
        ids = adapters_named(connection, name)
    except UnknownName:
        return {}
    query = sa.select(Adapter.id, Adapter.check_name).where(Adapter.id.in_(ids))
    return {row.id: row.check_name for row in connection.execute(query)}


class Comparison:
    """A against B. wanted: which images, whatever was answered. by: what makes images of both sides the same.

    Raises RequestError for sides that cannot differ, or have no check in common.
    """

    def __init__(self, connection: sa.Connection, a: Side, b: Side, wanted: ResultFilter, *, by: By) -> None:
        _require_two(a, b)
        checks = None if a.scan is not None and b.scan is not None else _common(a, b)
        sides = [_answers(connection, each, wanted, checks, by) for each in (a, b)]
        both = sa.union_all(*(side.add_columns(sa.literal(at).label("side")) for at, side in enumerate(sides)))
        rows = both.subquery("both")

        def of(side: int, column: Any, name: str) -> sa.ColumnElement[Any]:
            return sa.func.max(sa.case((rows.c.side == side, column))).label(f"{'ab'[side]}_{name}")

        columns = [of(side, rows.c[name], name) for side in (0, 1) for name in _VALUES]
        known = [of(side, sa.literal(1), "known") for side in (0, 1)]
        uri = sa.func.min(rows.c.uri).label("uri")
        self._pairs = sa.select(rows.c.key, uri, *columns, *known).group_by(rows.c.key).subquery("pairs")
        self._connection = connection

    def cells(self) -> list[Cell]:
        """Count the images by both decisions."""
        pair = self._pairs.c
        keys = (pair.a_decision, pair.b_decision, pair.a_known, pair.b_known)
        query = sa.select(*keys, sa.func.count().label("n")).group_by(*keys).order_by(*keys)
        return [
            Cell(a=row.a_decision, b=row.b_decision, in_a=bool(row.a_known), in_b=bool(row.b_known), n=row.n)
            for row in self._connection.execute(query)
        ]

    def flips(self, *, limit: int) -> list[Flip]:
        """Return images that are decided differently, a flag against a clear first, then by name."""
        pair = self._pairs.c
        decided = ("flag", "clear")
        opposed = sa.and_(pair.a_decision.in_(decided), pair.b_decision.in_(decided))
        query = (
            sa.select(pair.uri, *(pair[f"{side}_{name}"] for side in "ab" for name in _VALUES))
            .where(pair.a_decision != pair.b_decision)
            .order_by(sa.case((opposed, 0), else_=1), pair.uri)
            .limit(limit)
        )
        return [Flip(**row._mapping) for row in self._connection.execute(query)]


def _require_two(a: Side, b: Side) -> None:
    if a.name == b.name or (a.adapters and a.adapters == b.adapters):
        raise RequestError(f"{a.name} is named twice: name two scans or adapters")
    for one, other in ((a, b), (b, a)):
        if one.scan and other.scan and one.scan.rescan_of == other.scan.id:
            raise RequestError(
                f"{one.name} renews {other.name}, whose answers are its own now: "
                f"`scanfleet rescan {one.scan.id} --report` shows what changed"
            )


def _common(a: Side, b: Side) -> Sequence[str]:
    """Return the checks that both sides may have answered; that of a base model alone is the other side's."""
    if not a.checks or not b.checks:
        return a.checks or b.checks
    common = sorted(set(a.checks) & set(b.checks))
    if not common:
        raise RequestError(f"{a.name} is of check {', '.join(a.checks)}, {b.name} of {', '.join(b.checks)}")
    return common


def _answers(
    connection: sa.Connection, side: Side, wanted: ResultFilter, checks: Sequence[str] | None, by: By
) -> sa.Select[Any]:
    """Select key, uri and answer of each image of a side once, its newest answer."""
    content = content_of() if side.scan is not None else Verdict.content_sha256
    key = Image.uri if by == "uri" else content
    newest = (Verdict.created_at.desc().nulls_last(), Verdict.id.desc().nulls_last())
    place = sa.func.row_number().over(partition_by=key, order_by=newest).label("place")
    columns = (key.label("key"), Image.uri.label("uri"), Verdict.decision, Verdict.label, Verdict.margin, place)
    if side.scan is not None:
        query = replace(wanted, scan=side.scan.id).joined(*columns)
    else:
        chosen = replace(wanted, rescans=True, check=checks or wanted.check, scan=_with_rescans(connection, wanted))
        query = _every_answer(*columns).where(*replace(chosen, adapter=side.adapters).conditions())
    ranked = query.where(key.is_not(None)).subquery()
    return sa.select(ranked.c.key, ranked.c.uri, *(ranked.c[name] for name in _VALUES)).where(ranked.c.place == 1)


def _with_rescans(connection: sa.Connection, wanted: ResultFilter) -> list[str]:
    scans = [wanted.scan] if isinstance(wanted.scan, str) else list(wanted.scan or ())
    return [*scans, *(rescan.id for scan in scans for rescan in list_rescans(connection, scan))]


def _every_answer(*columns: Any) -> sa.Select[Any]:
    """Select from all answers, not only those that stand, with what the conditions of a filter of images name."""
    return (
        sa.select(*columns)
        .select_from(Verdict)
        .join(Image, Image.id == Verdict.image_id)
        .join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        .join(Scan, Scan.id == Image.scan_id)
        .join(CheckRow, CheckRow.id == Scan.check_id)
    )
