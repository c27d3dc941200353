"""Reports a rescan: which answers flipped, and how many of those it did not take would have."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import IO, Any, Literal

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.results import rescan_changes
from scanfleet.db.results.rescan_changes import Cell, Compared, Flip
from scanfleet.db.scans import scans
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.errors import RequestError
from scanfleet.stats.proportions import Proportion

Kind = Literal["decision", "label"]
KINDS: tuple[Kind, ...] = ("decision", "label")


@dataclass(frozen=True, kw_only=True)
class Missed:
    """The estimate for answers that were not scored again. flipped: the share among the audited ones."""

    flipped: Proportion
    n_others: int  # answers that were not scored again

    @property
    def expected(self) -> int | None:
        return None if self.flipped.value is None else round(self.flipped.value * self.n_others)

    @property
    def at_most(self) -> int:
        """The upper bound of the 95 % interval of the share (Wilson), as a number of answers."""
        return math.ceil(self.flipped.interval[1] * self.n_others)


@dataclass(frozen=True, kw_only=True)
class Report:
    """drawn: (why an image was taken, its state) -> images. scorers: whose answers are compared."""

    rescan: ScanInfo
    cells: list[Cell]
    drawn: Mapping[tuple[str, str], int]
    scorers: list[Compared]

    @cached_property
    def n_renewed(self) -> int:
        return sum(cell.n_images for cell in self.cells)

    def n_in_state(self, *states: str) -> int:
        return sum(n for (_, state), n in self.drawn.items() if state in states)

    def table(self, what: Kind) -> dict[tuple[str, str], int]:
        """Return (old, new) -> images."""
        found: Counter[tuple[str, str]] = Counter()
        for cell in self.cells:
            found[_pair(cell, what)] += cell.n_images
        return dict(sorted(found.items()))

    def n_flipped(self, what: Kind) -> int:
        return sum(n for (old, new), n in self.table(what).items() if old != new)

    def missed(self, what: Kind) -> Missed:
        """Estimate the missed flips. Without an audit the share is unknown, and the bound is all answers."""
        audited = [cell for cell in self.cells if cell.drawn == "audit"]
        k = sum(cell.n_images for cell in audited if len(set(_pair(cell, what))) == 2)
        n_taken = sum(n for (why, _), n in self.drawn.items() if why == "audit")
        share = Proportion(k=k, n=sum(cell.n_images for cell in audited))
        return Missed(flipped=share, n_others=max(self.rescan.filters["audit_of"] - n_taken, 0))

    @property
    def n_off_target(self) -> int:
        """The number of answers by another adapter than the rescan was made for."""
        aim = self.rescan.filters["adapter"]
        return sum(each.n_images for each in self.scorers if each.side == "new" and each.adapter_id != aim)

    def record(self) -> dict[str, Any]:
        """Return all figures as plain values, without the list of flips."""
        states = ("pending", "failed", "cancelled")
        return {
            "rescan": self.rescan.id,
            "renews": self.rescan.rescan_of,
            "state": self.rescan.state,
            "filters": self.rescan.filters,
            "renewed": self.n_renewed,
            **{state: self.n_in_state(state) for state in states},
            "decisions": _rows(self.table("decision")),
            "labels": _rows(self.table("label")),
            "audit": {what: _missed(self.missed(what)) for what in KINDS},
            "scorers": [asdict(each) for each in self.scorers],
        }


def _pair(cell: Cell, what: Kind) -> tuple[str, str]:
    if what == "label":
        return cell.old_label, cell.new_label
    return cell.old_decision, cell.new_decision


def _rows(table: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"old": old, "new": new, "images": n} for (old, new), n in table.items()]


def _missed(found: Missed) -> dict[str, Any]:
    low, high = found.flipped.interval
    return {
        "audited": found.flipped.n,
        "flipped": found.flipped.k,
        "low": low,
        "high": high,
        "others": found.n_others,
        "expected": found.expected,
        "at_most": found.at_most,
    }


def find_report(engine: sa.Engine, scan_id: str) -> Report:
    """Return the report of a rescan, or of the newest rescan of a scan. Raises UnknownName, RequestError."""
    with reading(engine, long=True) as connection:
        rescan = scans.get_scan(connection, scan_id)
        if rescan.rescan_of is None:
            found = scans.list_rescans(connection, rescan.id, limit=1)
            if not found:
                raise RequestError(
                    f"scan {rescan.id} was never rescanned, nothing to report: `scanfleet rescan {rescan.id}`"
                )
            rescan = found[0]
        return Report(
            rescan=rescan,
            cells=rescan_changes.count_renewed(connection, rescan.id),
            drawn=rescan_changes.count_drawn(connection, rescan.id),
            scorers=rescan_changes.scorers_compared(connection, rescan.id),
        )


_ANSWER = ("label", "decision", "score", "margin", "scorer_id")
COLUMNS = ("uri", "drawn", *(f"{side}_{name}" for name in _ANSWER for side in ("old", "new")))


def as_record(flip: Flip) -> dict[str, Any]:
    """Return one flip on one level."""
    sides = {"old": asdict(flip.old), "new": asdict(flip.new)}
    values = {f"{side}_{name}": held[name] for name in _ANSWER for side, held in sides.items()}
    return {"uri": flip.uri, "drawn": flip.drawn} | values


def write_json(report: Report, found: Iterable[Flip], file: IO[bytes]) -> None:
    """Write one object; the list of flips is streamed."""
    head = json.dumps(report.record(), indent=2, ensure_ascii=False)
    file.write(f'{head[:-2]},\n  "flips": ['.encode())
    for n, flip in enumerate(found):
        file.write(f"{',' if n else ''}\n    {json.dumps(as_record(flip), ensure_ascii=False)}".encode())
    file.write(b"\n  ]\n}\n")


def write_csv(_: Report, found: Iterable[Flip], file: IO[bytes]) -> None:
    """Write one line per flip."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(as_record, found))
    finally:
        text.detach()  # the caller closes the file


WRITERS: dict[str, Callable[[Report, Iterable[Flip], IO[bytes]], None]] = {"json": write_json, "csv": write_csv}
