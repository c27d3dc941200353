"""A random sample of the recently scored images without a label: the images that a check meets now."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.tables import CheckRow, Image, Label, Scan, Verdict

SAMPLED_FROM = 20  # newest verdicts per sampled image


@dataclass(frozen=True, kw_only=True)
class ScoredImage:
    """Bytes that were scored, and their location."""

    content_sha256: str
    uri: str
    root: str | None
    frame: int | None  # the picture with the answer, of a file with several


def recent_unlabelled(connection: sa.Connection, check_name: str, *, limit: int, seed: int) -> list[ScoredImage]:
    """Return at most `limit` images, each once. The same seed gives the same sample of the same images.

    Images that a rescan chose (`Image.drawn`) are left out: they do not represent the archive.
    """
    labelled = sa.exists().where(Label.check_name == check_name, Label.content_sha256 == Verdict.content_sha256)
    newest = (
        sa.select(Verdict.content_sha256, Image.uri, Image.root, Verdict.frames["frame"].as_integer().label("frame"))
        .join(Image, Image.id == Verdict.image_id)
        .join(Scan, Scan.id == Verdict.scan_id)
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .where(CheckRow.name == check_name, Image.drawn.is_(None), ~labelled)
        .order_by(Verdict.id.desc())
        .limit(SAMPLED_FROM * limit)
    )
    found = {row.content_sha256: ScoredImage(**row._mapping) for row in connection.execute(newest)}
    by_chance = sorted(found, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    return [found[key] for key in by_chance[:limit]]
