"""Verdicts of images by their bytes: kept with a label, to count later how often people disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from scanfleet.db.tables import CheckRow, ScorerRow, Verdict

CHUNK_ROWS = 500  # per statement


def shown_for(connection: sa.Connection, check_name: str, images: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return by content hash the newest verdict of any version of the check, as `labels.shown` holds it.

    `frame` is in it for a file with several pictures: the one that the answer, and so the label, is about. Images that
    were never scored for this check are left out.
    """
    scorers = (
        sa.select(ScorerRow.id).join(CheckRow, CheckRow.id == ScorerRow.check_id).where(CheckRow.name == check_name)
    )
    scorer_ids = list(connection.execute(scorers).scalars())
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(images), CHUNK_ROWS):
        some = images[start : start + CHUNK_ROWS]
        query = (
            sa.select(Verdict.content_sha256, *_COLUMNS)
            .where(Verdict.scorer_id.in_(scorer_ids), Verdict.content_sha256.in_(some))
            .order_by(Verdict.created_at, Verdict.id)
        )
        for row in connection.execute(query):
            verdict = dict(row._mapping)
            sha256, frames = verdict.pop("content_sha256"), verdict.pop("frames")
            found[sha256] = verdict if frames is None else verdict | {"frame": frames["frame"]}
    return found


_COLUMNS = (
    Verdict.label,
    Verdict.decision,
    Verdict.score,
    Verdict.margin,
    Verdict.scorer_id.label("scorer"),
    Verdict.frames,
)
