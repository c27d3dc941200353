"""Champions that workers refuse: the promotion stands, and yet those workers answer with an older adapter."""

from __future__ import annotations

import sqlalchemy as sa

from producer.launch import SILENT_SECONDS
from scanfleet.store.champions import in_use
from scanfleet.store.refusals import RefusalInfo, standing_refusals
from scanfleet.store.workers import live_workers


def refused_champions(connection: sa.Connection) -> list[RefusalInfo]:
    """By workers that gave a sign lately, the oldest first."""
    alive = {worker.id for worker in live_workers(connection, silent_seconds=SILENT_SECONDS)}
    champions = set(in_use(connection).values())
    return [found for found in standing_refusals(connection) if found.adapter_id in champions and found.worker in alive]


def in_words(refusal: RefusalInfo) -> str:
    return (
        f"adapter {refusal.adapter_id} is in use for {refusal.check_name}, but worker {refusal.worker} refuses it "
        f"and answers with an older one, or not at all: {refusal.why}"
    )
