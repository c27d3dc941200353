"""Workers that record shifts of a scorer's margins at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.db.engine import transaction
from scanfleet.db.results.scorers import Shift, record_shift, scorer_id
from scanfleet.db.scans import scans
from scanfleet.db.tables import ScorerRow
from tests.rigs.ledger_rig import scorer_spec

WIDTHS = (0.02, 0.3, 0.11, 0.29, 0.05, 0.001)


def shift(width: float) -> Shift:
    return Shift(max=width, mean=width / 4, n=16, against="fp32")


def tell_at_once(engine: sa.Engine) -> dict[str, Any] | None:
    """Record each width from its own thread, as workers that start together do. Returns the shift in the ledger."""

    def start(width: float) -> int:
        with transaction(engine) as connection:
            row = scorer_id(connection, scorer_spec(check_id))
            record_shift(connection, row, shift(width))
            return row

    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=load_check("overlay"), model="fake", sources=["/none"], filters={})
    check_id = scan.check_id
    with ThreadPoolExecutor(len(WIDTHS)) as pool:
        rows = set(pool.map(start, WIDTHS))
    assert len(rows) == 1
    with transaction(engine) as connection:
        return connection.execute(sa.select(ScorerRow.shift)).scalar_one()
