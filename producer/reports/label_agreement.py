"""Measures the answers of a scan by the labels of the ledger."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.queries.agreement import count_labelled
from scanfleet.db.scans.checks import get_check
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.producer.reports.agreement import Agreement


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """random: images drawn at random to be labelled, which represent the archive; chosen: all others, which do not.

    n_disputed: images that people label differently, in neither. n_taught: images of both that the adapter which
    answered may have learnt from.
    """

    random: Agreement
    chosen: Agreement
    n_disputed: int
    n_taught: int


def measure_by_labels(connection: sa.Connection, scan: ScanInfo) -> LabelAgreement:
    """Compare the answers that stand with the labels that stand, of the scan's check."""
    check = get_check(connection, scan.check_id)
    groups = {random: Agreement(check.labels, check.flags) for random in (True, False)}
    n_disputed = n_taught = 0
    for cell in count_labelled(connection, scan.id, check.name):
        if cell.disputed:
            n_disputed += cell.n
            continue
        n_taught += cell.n if cell.taught else 0
        groups[cell.random].add(cell.label, label=cell.answer, decision=cell.decision, n=cell.n)
    return LabelAgreement(random=groups[True], chosen=groups[False], n_disputed=n_disputed, n_taught=n_taught)
