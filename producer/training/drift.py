"""The data of `scanfleet drift`: slices, corrections by people and findings, as table rows and as one record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.drift.corrections import labels_of, newest_check
from scanfleet.db.drift.reference import checks_with_scans, slices
from scanfleet.db.drift.uri_parts import By
from scanfleet.db.scans.checks import resolve_check
from scanfleet.db.scans.scans import get_scan
from scanfleet.errors import RequestError
from scanfleet.stats.counts import Labels, Slice
from scanfleet.stats.drift import Finding, judge, judge_labels
from scanfleet.stats.proportions import Proportion

HEADER = ("scan", "source", "n", "psi", "flagged", "ratio", "review", "far", "mass", "low_mass", "reference")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The drift of one check. labels: over all, and over random samples."""

    check: str
    slices: list[Slice]
    labels: list[Labels]
    findings: list[Finding]

    @property
    def alarms(self) -> list[str]:
        return [finding.words for finding in self.findings if finding.level == "alarm"]


def drift_of(
    connection: sa.Connection, *, check_name: str | None, scan_id: str | None, by: By | None
) -> Iterator[Drift]:
    """Yield the drift of each check, of the named one, or of the scan's. Raises UnknownName, RequestError."""
    scan = None if scan_id is None else get_scan(connection, scan_id)
    if scan is not None and check_name not in (None, scan.check):
        raise RequestError(f"scan {scan.id} is of check {scan.check}, not of {check_name}")
    for name in _checks(connection, check_name) if scan is None else [scan.check]:
        check = newest_check(connection, name)
        if check is None:
            continue
        only = None if scan is None else scan.id
        found = list(slices(connection, name, scan_id=only, by=by))
        labels = labels_of(connection, check, scan_id=only)
        findings = [finding for each in found for finding in judge(each, of_mass=not each.zero_shot)]
        for each in labels:
            findings += judge_labels(name, each, target_recall=check.target_recall)
        yield Drift(check=name, slices=found, labels=labels, findings=findings)


def _checks(connection: sa.Connection, check_name: str | None) -> list[str]:
    known = checks_with_scans(connection)
    if check_name is None:
        return known
    return [check_name] if check_name in known else [resolve_check(connection, check_name).name]


def row(found: Slice) -> tuple[str | int | float | None, ...]:
    now = found.tally
    held_to = "is the reference" if found.before is None and found.reference else found.reference
    far = _percent(Proportion(k=now.n_far, n=now.n_compared))
    shares = (_percent(found.flag_rate), found.flag_ratio, _percent(Proportion(k=now.n_review, n=now.n)), far)
    mass = (now.mean_mass, _percent(Proportion(k=now.n_low_mass, n=now.n)))
    psi = "too few" if found.reference is None else found.psi
    return (found.scan, found.source or "(all)", now.n, psi, *shares, *mass, held_to)


def record(found: Drift) -> dict[str, Any]:
    return {
        "check": found.check,
        "slices": [_slice_record(each) for each in found.slices],
        "labels": [_labels_record(each) for each in found.labels],
        "findings": [{"level": each.level, "words": each.words} for each in found.findings],
    }


def label_rows(found: Iterable[Labels]) -> list[tuple[str, ...]]:
    """Return rows of (drawn, corrected, missed among cleared, recall, positive), shares with their intervals."""
    return [
        (each.drawn, *(_share_text(share) for share in (each.overridden, each.missed, each.recall, each.positive)))
        for each in found
    ]


def _slice_record(found: Slice) -> dict[str, Any]:
    now = found.tally
    return {
        "scan": found.scan,
        "source": found.source,
        "scorer": {"id": found.scorer_id, "name": found.scorer},
        "images": now.n,
        "reference": found.reference,
        "reference_images": None if found.before is None else found.before.n,
        "psi": found.psi,
        "psi_by_chance": found.psi_by_chance,
        "flag_rate": found.flag_rate.value,
        "flag_ratio": found.flag_ratio,
        "review_rate": now.n_review / now.n,
        "far_share": found.far_share,
        "mean_mass": now.mean_mass,
        "low_mass_share": now.n_low_mass / now.n,
    }


def _labels_record(found: Labels) -> dict[str, Any]:
    shares = {
        "overridden": found.overridden,
        "missed": found.missed,
        "recall": found.recall,
        "positive": found.positive,
    }
    return {"drawn": found.drawn} | {name: _share_record(share) for name, share in shares.items()}


def _share_record(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"k": share.k, "n": share.n, "value": share.value, "low": low, "high": high}


def _percent(share: Proportion) -> str | None:
    return None if share.value is None else f"{share.value:.1%}"


def _share_text(share: Proportion) -> str:
    if share.value is None:
        return "-"
    low, high = share.interval
    return f"{share.value:.1%} of {share.n} ({low:.1%} to {high:.1%})"
