"""Champions that live workers refuse, so that they answer with an older adapter."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from scanfleet.db.scans.workers import live_workers
from scanfleet.db.training.champions import champion, in_use
from scanfleet.db.training.refusals import RefusalInfo, open_refusals
from scanfleet.producer.scans.session import SILENT_SECONDS


def refused_champions(connection: sa.Connection) -> list[RefusalInfo]:
    """Return the refusals of champions by live workers, the oldest first."""
    alive = {worker.id for worker in live_workers(connection, silent_seconds=SILENT_SECONDS)}
    champions = set(in_use(connection).values())
    return [found for found in open_refusals(connection) if found.adapter_id in champions and found.worker in alive]


def refused_since(connection: sa.Connection, check_name: str, base_model: str, since: datetime) -> list[RefusalInfo]:
    """Return the refusals of a check's champion by live workers, and by ended ones after `since`."""
    used = champion(connection, check_name, base_model)
    if used is None:
        return []
    alive = {worker.id for worker in live_workers(connection, silent_seconds=SILENT_SECONDS)}
    return [each for each in open_refusals(connection, used.id) if each.worker in alive or each.at >= since]


def refusals_text(refusals: list[RefusalInfo]) -> str:
    """Return one line on the refusals of one adapter: the number of workers, and the newest reason."""
    workers = "1 worker" if len(refusals) == 1 else f"{len(refusals)} workers"
    newest = refusals[-1]
    return f"adapter {newest.adapter_id} is refused by {workers}: {newest.why}; see `scanfleet adapters ls`"


def refusal_text(refusal: RefusalInfo) -> str:
    return (
        f"adapter {refusal.adapter_id} is in use for {refusal.check_name}, but worker {refusal.worker} refuses it "
        f"and answers with an older one or not at all: {refusal.why}"
    )
