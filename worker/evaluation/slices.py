"""What a manifest told of labelled images beside their names: a dimension of the gate's slices."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from scanfleet.db.tables import CheckRow, Image, ScorerRow, Verdict

STYLE = "style"  # the column of a manifest
CHUNK_IMAGES = 500  # of one statement


def styles(connection: sa.Connection, check_name: str, keys: Sequence[str]) -> dict[str, str]:
    """Content hash -> style, of images that were scored for this check from a manifest with such a column.

    Through the verdicts of the check's scorers: images are found by their hash in no other way.
    """
    of_check = sa.select(ScorerRow.id).join(CheckRow, CheckRow.id == ScorerRow.check_id)
    scorers = of_check.where(CheckRow.name == check_name)
    found: dict[str, str] = {}
    for start in range(0, len(keys), CHUNK_IMAGES):
        query = (
            sa.select(Verdict.content_sha256, Image.meta)
            .join(Image, Image.id == Verdict.image_id)
            .where(Verdict.scorer_id.in_(scorers), Verdict.content_sha256.in_(keys[start : start + CHUNK_IMAGES]))
            .order_by(Verdict.id)
        )
        for key, meta in connection.execute(query):
            if meta and meta.get(STYLE):
                found[key] = str(meta[STYLE])
    return found
