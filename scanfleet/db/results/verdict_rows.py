"""The rows of verdicts, written for a whole batch at once, with the images that they answer.

The statements are text, since building and binding them costs more than the rest of what a worker does to settle a
batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from scanfleet.db.bulk import sqlite_value, unnested
from scanfleet.db.engine import now
from scanfleet.db.results.answers import COLUMNS, NewVerdict
from scanfleet.db.scans.batches import Claim
from scanfleet.db.tables import Verdict
from scanfleet.errors import LeaseLost

_RECORDS = ("crop", "frames", "explanation")  # objects that become JSON
_MESSAGES = ("box_problems", "notes")  # empty ones become null
_OWN = ("image_id", "identity", "computed_at")
_AS_THEY_ARE = (*_OWN, *COLUMNS)
_values = attrgetter(*_AS_THEY_ARE)
_NAMES = (*_AS_THEY_ARE, *_MESSAGES, *_RECORDS)  # of verdicts; image_id first, which is never alike
_RENEWED = ", ".join(f"{name} = excluded.{name}" for name in ("scan_id", "created_at", *_NAMES[1:]))
# Of images: what is known since it was read. None: listed with a version, or it has no new one.
_OF_IMAGE = {"width": "BIGINT", "height": "BIGINT", "rescan_of": "BIGINT", "seen_etag": "TEXT", "size": "BIGINT"}
_UPSERT = f"ON CONFLICT (image_id, scorer_id) DO UPDATE SET {_RENEWED}"
_SEEN = "seen_etag = coalesce(images.seen_etag, {etag}), size = coalesce(images.size, {size})"


def write_rows(
    connection: sa.Connection,
    held: Claim,
    scorer_id: int,
    verdicts: Sequence[NewVerdict],
    *,
    reused: set[int],
    versions: Mapping[int, str],
    sizes: Mapping[int, int],
) -> dict[int, int]:
    """Write verdicts, and let their images name them. Returns the verdicts by image.

    A verdict that this scorer gave an image before is renewed. reused: copied verdicts that there are. versions, sizes:
    of images that were listed without, by id.

    Raises LeaseLost if an image is not the one that was claimed: a restored database gives the ids of lost ones away.
    """
    columns = _columns(held, verdicts, reused, versions, sizes)
    write = _in_one if connection.dialect.name == "postgresql" else _row_by_row
    found = write(connection, held, scorer_id, columns)
    if len(found) != len(verdicts):
        raise LeaseLost(f"batch {held.batch_id}: some of its images are not those that were claimed")
    return found


def _columns(
    held: Claim,
    verdicts: Sequence[NewVerdict],
    reused: set[int],
    versions: Mapping[int, str],
    sizes: Mapping[int, int],
) -> dict[str, Sequence[Any]]:
    columns: dict[str, Sequence[Any]] = dict(zip(_AS_THEY_ARE, zip(*map(_values, verdicts), strict=True), strict=True))
    columns["reused_from"] = [each if each in reused else None for each in columns["reused_from"]]
    for name in _MESSAGES:
        columns[name] = [getattr(verdict, name) or None for verdict in verdicts]
    for name in _RECORDS:
        records = (getattr(verdict, name) for verdict in verdicts)
        columns[name] = [record and record.record() for record in records]
    renewed = {image.id: image.rescan_of for image in held.images}
    ids = columns["image_id"]
    of_image: dict[str, Sequence[Any]] = {
        "width": [verdict.width for verdict in verdicts],
        "height": [verdict.height for verdict in verdicts],
        "rescan_of": [renewed[image_id] for image_id in ids],
        "seen_etag": [versions.get(image_id) for image_id in ids],
        "size": [sizes.get(image_id) for image_id in ids],
    }
    return columns | of_image


def _in_one(
    connection: sa.Connection, held: Claim, scorer_id: int, columns: dict[str, Sequence[Any]]
) -> dict[int, int]:
    names = ", ".join(_NAMES)
    new, values = unnested(Verdict, columns, _OF_IMAGE)
    statement = f"""
    WITH new AS MATERIALIZED ({new}), written AS (
      INSERT INTO verdicts (scan_id, scorer_id, created_at, {names})
      SELECT %s, %s, statement_timestamp(), {names} FROM new {_UPSERT} RETURNING id, image_id)
    UPDATE images SET state = 'verdict', verdict_id = written.id, width = new.width, height = new.height,
      {_SEEN.format(etag="new.seen_etag", size="new.size")}
    FROM new JOIN written USING (image_id)
    WHERE images.id = new.image_id AND images.batch_id = %s AND images.identity = new.identity
      AND images.rescan_of IS NOT DISTINCT FROM new.rescan_of
    RETURNING images.id, images.verdict_id"""  # noqa: S608
    rows = connection.exec_driver_sql(statement, (*values, held.scan_id, scorer_id, held.batch_id))
    return {row.id: row.verdict_id for row in rows}


_INSERT = (
    f"INSERT INTO verdicts (scan_id, scorer_id, created_at, {', '.join(_NAMES)}) "  # noqa: S608
    f"VALUES (?, ?, ?, {', '.join('?' * len(_NAMES))}) {_UPSERT}"
)
_ANSWER = f"""
    UPDATE images SET state = 'verdict', verdict_id = (SELECT id FROM verdicts WHERE image_id = ?1 AND scorer_id = ?2),
      width = ?3, height = ?4, {_SEEN.format(etag="?5", size="?6")}
    WHERE id = ?1 AND batch_id = ?7 AND identity = ?8 AND rescan_of IS ?9"""  # noqa: S608
_WRITTEN = sa.text("SELECT id, verdict_id FROM images WHERE batch_id = :batch AND state = 'verdict'")


def _row_by_row(
    connection: sa.Connection, held: Claim, scorer_id: int, columns: dict[str, Sequence[Any]]
) -> dict[int, int]:
    """Do the same on SQLite, which is in this process and has no arrays."""
    at = sqlite_value(now(connection))
    plain = {name: [sqlite_value(value) for value in values] for name, values in columns.items()}
    of_verdicts = zip(*(plain[name] for name in _NAMES), strict=True)
    connection.exec_driver_sql(_INSERT, [(held.scan_id, scorer_id, at, *row) for row in of_verdicts])
    of_images = zip(*(plain[name] for name in ("image_id", *_OF_IMAGE, "identity")), strict=True)
    changed = connection.exec_driver_sql(
        _ANSWER,
        [
            (image_id, scorer_id, width, height, etag, size, held.batch_id, identity, rescan_of)
            for image_id, width, height, rescan_of, etag, size, identity in of_images
        ],
    )
    if changed.rowcount != len(plain["image_id"]):
        return {}
    wanted = set(plain["image_id"])
    rows = connection.execute(_WRITTEN, {"batch": held.batch_id})
    return {image_id: verdict_id for image_id, verdict_id in rows if image_id in wanted}
