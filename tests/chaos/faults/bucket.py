"""Objects that change or are refused while scans that listed them run."""

from __future__ import annotations

import dataclasses
import random
import time

import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch, Image
from scanfleet.errors import DatabaseUnavailable
from tests.chaos.archive import DAMAGED, Item, make_bytes
from tests.chaos.expected import Change, ChangeKind
from tests.chaos.faults.base import Begun, Fault, Ground, NotNow
from tests.chaos.fleet.bucket import EVERYTHING

MOST_AT_ONCE = 5
LOOK_AT = 200  # pending images, the last ones of the queue


def deleted(ground: Ground) -> Begun:
    return _change(ground, "deleted")


def overwritten(ground: Ground) -> Begun:
    return _change(ground, "overwritten")


def denied(ground: Ground) -> Begun:
    """Some objects are refused for ever; others of the same scans are not."""
    return _change(ground, "denied")


def refused(ground: Ground) -> Begun:
    """The whole bucket is refused for a while, as when credentials expire."""
    server = ground.services.s3
    ground.take("bucket policy")
    server.refuse(EVERYTHING)

    def end() -> None:
        server.admit(EVERYTHING)
        ground.give_back("bucket policy")

    return Begun(seconds=ground.rng.uniform(1.0, 4.0), end=end)


def _change(ground: Ground, kind: ChangeKind) -> Begun:
    """Change a few objects that scans have listed and most likely nobody has read; others if there are no such ones."""
    ground.need("s3", "bucket policy")
    items, server = _chosen(ground), ground.services.s3
    new = {item.key: None if kind != "overwritten" else _new_version(item, ground.rng) for item in items}
    began = time.monotonic()
    if kind == "deleted":
        server.delete(new)
    elif kind == "overwritten":
        server.overwrite({key: item.data for key, item in new.items() if item is not None})
    else:
        server.refuse(*new)
    ended = time.monotonic()
    ground.changes.update({key: Change(kind=kind, began=began, ended=ended, item=item) for key, item in new.items()})
    return Begun()


def _chosen(ground: Ground) -> list[Item]:
    query = sa.select(Image.uri).join(Batch, Batch.id == Image.batch_id).order_by(Image.id.desc()).limit(LOOK_AT)
    query = query.where(Image.state == "pending", Batch.state == "ready", Batch.attempts == 0)
    try:
        with reading(ground.services.engine) as connection:
            pending = set(connection.execute(query).scalars())
    except DatabaseUnavailable:
        raise NotNow from None
    free = [item for item in ground.services.items if _may_change(item, ground)]
    items = [item for item in free if item.uri in pending] or free
    if not items:
        raise NotNow
    return ground.rng.sample(items, k=min(ground.rng.randint(1, MOST_AT_ONCE), len(items)))


def _may_change(item: Item, ground: Ground) -> bool:
    """Each object once, and only every second one, so that no listing becomes empty."""
    return item.kind not in DAMAGED and item.key not in ground.changes and int(item.key[-5]) % 2 == 1


def _new_version(item: Item, rng: random.Random) -> Item:
    return dataclasses.replace(item, data=make_bytes("good", rng, []))


FAULTS: dict[str, Fault] = {
    "s3_deleted": deleted,
    "s3_overwritten": overwritten,
    "s3_denied": denied,
    "s3_refused": refused,
}
