"""Puts an adapter in use, and takes it out again, at a person's word."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.training import champions
from scanfleet.db.training.adapters import AdapterInfo, get_adapter
from scanfleet.db.training.champions import Change, in_use
from scanfleet.errors import UnknownName
from scanfleet.producer.training.adapter_files import require_weights


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """unseen: why its files could not be checked. previous_id: what it replaces; None: the base model alone."""

    adapter: AdapterInfo
    previous_id: int | None
    unseen: str | None

    @property
    def changed(self) -> bool:
        return self.previous_id != self.adapter.id


def promote(
    engine: sa.Engine, settings: Settings, adapter_id: int, *, force: bool, why: str | None, who: str | None
) -> Promoted:
    """Put an adapter in use for its check and base model.

    force: even if the gate did not pass it. Raises GateNotPassed, UnknownName, BadSource (its files are others).
    """
    with reading(engine) as connection:
        adapter = get_adapter(connection, adapter_id)
    unseen = require_weights(adapter, settings)  # takes seconds, so it runs outside the transaction
    with transaction(engine) as connection:
        used = champions.champion(connection, adapter.check_name, adapter.base_model)
        previous_id = None if used is None else used.id
        if previous_id != adapter_id:
            kind: champions.Kind = "forced" if force and adapter.gate_verdict != "promote" else "person"
            champions.promote(connection, adapter_id, kind=kind, why=why or "by hand", who=who)
    return Promoted(adapter=adapter, previous_id=previous_id, unseen=unseen)


def roll_back(
    engine: sa.Engine, settings: Settings, check_name: str, *, model: str | None, why: str | None, who: str | None
) -> tuple[str, Change]:
    """Put the previous adapter back in use, or the base model alone; return the base model, too.

    model: None: the only one in use, else that of the settings. Raises UnknownName.
    """
    with transaction(engine) as connection:
        base = model or _base_of(connection, check_name, settings)
        return base, champions.roll_back(connection, check_name, base, why=why or "by hand", who=who)


def _base_of(connection: sa.Connection, check_name: str, settings: Settings) -> str:
    """Return the base model to roll back on. Raises UnknownName."""
    bases = sorted(base for check, base in in_use(connection) if check == check_name)
    if len(bases) == 1:
        return bases[0]
    if settings.model in bases:
        return settings.model
    if not bases:
        raise UnknownName(f"check {check_name} has nothing to roll back to: no adapter was ever in use for it")
    raise UnknownName(f"check {check_name} has champions on {', '.join(bases)}: name one with --model")
