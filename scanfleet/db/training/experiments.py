"""Cells of experiments: what has ended is kept, so that the same experiment goes on where it stopped."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import ExperimentCell


def add_cell(connection: sa.Connection, cell: dict[str, Any], *, experiment: str, digest: str) -> None:
    """Store a cell: {"arm", "seed", "size", "state", "record"}. It replaces one of the same place."""
    place = {name: cell[name] for name in ("arm", "seed", "size")}
    row = {"experiment": experiment, "digest": digest, **cell, "ended_at": now(connection)}
    connection.execute(sa.delete(ExperimentCell).filter_by(digest=digest, **place))
    connection.execute(sa.insert(ExperimentCell).values(**row))


def done_cells(connection: sa.Connection, experiment: str) -> dict[str, list[dict[str, Any]]]:
    """Return the cells of an experiment that are done, by digest.

    Those left out are tried again: the reason may be gone.
    """
    named = ("digest", "arm", "seed", "size", "state", "record")
    columns = [getattr(ExperimentCell, name) for name in named]
    rows = connection.execute(
        sa.select(*columns).filter_by(experiment=experiment, state="done").order_by(ExperimentCell.id)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cell = dict(row._mapping)
        found.setdefault(cell.pop("digest"), []).append(cell)
    return found
