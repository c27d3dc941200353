"""Asks for webhooks while a scan is enqueued, and delivers them where a command waits for its end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.config.webhook_address import sends_webhooks, webhook_address
from scanfleet.db.engine import transaction
from scanfleet.db.scans import webhooks
from scanfleet.producer.scans.enqueue import Enqueued
from scanfleet.retry import retry_database


def telling(engine: sa.Engine, settings: Settings, pages: Iterator[Enqueued], *, url: str | None) -> Iterator[Enqueued]:
    """Yield the pages of an enqueue, and have an address told when its scans end. None: nobody is told.

    Raises BadSettings or RequestError for an address that may not be told, before anything is enqueued.
    """
    if url is None:
        yield from pages
        return
    webhook_address(url, settings)
    asked = False
    for page in pages:
        if not asked:
            retry_database(partial(_ask, engine, page, url))
            asked = True
        yield page


def _ask(engine: sa.Engine, page: Enqueued, url: str) -> None:
    with transaction(engine) as connection:
        for scan in page.scans:
            webhooks.ask(connection, scan.id, url)


def deliver(engine: sa.Engine, settings: Settings, scan_id: str) -> None:
    """Send the webhooks of a scan that has ended; what is refused is sent again later, by whoever reconciles."""
    if sends_webhooks(settings):
        from scanfleet.webhooks.delivery import deliver_due  # an HTTP client, which most commands do not need

        retry_database(lambda: deliver_due(engine, settings, scan_id=scan_id))
