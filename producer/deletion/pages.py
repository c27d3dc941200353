"""Deletes images page by page, each in a transaction of its own: a command that is killed is run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa

from scanfleet.db.deletion.removal import PAGE_IMAGES, Removed, StillRenewedError, remove_images
from scanfleet.db.engine import reading, transaction
from scanfleet.db.tables import Image
from scanfleet.retry import retry_database

Also = Callable[[sa.Connection, Removed], None]


def remove_page(engine: sa.Engine, image_ids: Sequence[int], *, also: Also = lambda _, __: None) -> Removed:
    """Remove a page of images, and before it the images of rescans that renew them.

    also: what the transaction of the page does besides.
    """

    def attempt(some: Sequence[int]) -> Removed:
        with transaction(engine) as connection:
            removed = remove_images(connection, some)
            also(connection, removed)
            return removed

    done = Removed()
    while True:
        while renewing := _renewing(engine, image_ids):
            done += retry_database(partial(attempt, renewing))
        try:
            return done + retry_database(partial(attempt, image_ids))
        except (StillRenewedError, sa.exc.IntegrityError):  # a rescan has just taken some of them
            continue


def _renewing(engine: sa.Engine, image_ids: Sequence[int]) -> Sequence[int]:
    query = sa.select(Image.id).where(Image.rescan_of.in_(image_ids)).order_by(Image.id).limit(PAGE_IMAGES)
    with reading(engine) as connection:
        return connection.execute(query).scalars().all()
