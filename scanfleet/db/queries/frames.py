"""Counts of the files of a scan that hold several pictures."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.tables import Image, Verdict


@dataclass(frozen=True, kw_only=True)
class FrameCounts:
    """n_files: files with several pictures. n_partly: of these, files with pictures that were not scored.

    n_frames, n_scored: their pictures, and those that were scored.
    """

    n_files: int
    n_partly: int
    n_frames: int
    n_scored: int


def count_frames(connection: sa.Connection, scan_id: str) -> FrameCounts:
    """Count by the current answer of each image."""
    n_frames, n_scored = (Verdict.frames[name].as_integer() for name in ("n_frames", "n_scored"))
    query = (
        sa.select(
            sa.func.count().label("n_files"),
            sa.func.count().filter(n_scored < n_frames).label("n_partly"),
            sa.func.coalesce(sa.func.sum(n_frames), 0).label("n_frames"),
            sa.func.coalesce(sa.func.sum(n_scored), 0).label("n_scored"),
        )
        .join(Image, Image.verdict_id == Verdict.id)
        .where(Image.scan_id == scan_id, Verdict.frames.is_not(None))
    )
    return FrameCounts(**connection.execute(query).one()._mapping)
