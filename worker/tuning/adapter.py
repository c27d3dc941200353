"""The adapter that answers while a check is tuned: the one that a scan would use, or the one that was requested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.models import pocket
from scanfleet.models.adapters.canary import try_canary
from scanfleet.models.adapters.card import read_card
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Question
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.scoring.factory import matches, question_of
from scanfleet.worker.scoring.model import Model
from scanfleet.worker.tuning.search_space import FixedParts

SHIPPED = "shipped"


def adapter_folder(
    settings: Settings, model: Model, check: Check, *, given: str | None, registered: dict[str, Any] | None
) -> tuple[Path | None, list[str]]:
    """The folder of the adapter, after its canary test, and notes for the report. None: the base alone.

    given: a folder, SHIPPED or None. Raises BadSettings, and ModelInvalid for an adapter that fails its test.
    """
    if registered is not None:
        return _registered(settings, model, check, AdapterInfo(**registered))
    if given is None:
        return None, []
    folder = None if given == SHIPPED else Path(given)
    scorer = resolve_alone(model, check.model_copy(update={"crop": "never"}), folder).scorer
    if folder is None and scorer.identity.adapter_sha256 is not None:
        return pocket.adapter_folder(check.name), []
    return folder, []


def _registered(settings: Settings, model: Model, check: Check, info: AdapterInfo) -> tuple[Path | None, list[str]]:
    folder = AdapterFolders(settings).find(info)
    card = read_card(folder)
    if not matches(card, question_of(check)):
        return None, [
            f"adapter {info.id} was trained on another question than the check asks now: the base answers alone, as in "
            "scans"
        ]
    scorer, base = model.scorer(card.learnt, folder), model.plain(card.learnt)
    problem = None if card.canary is None else try_canary(card.canary, folder, adapter=scorer, base=base).problem()
    if problem is not None:
        raise ModelInvalid(f"adapter {folder.name}: {problem}")
    return folder, []


def fixed_parts(question: Question, folder: Path | None) -> FixedParts:
    """The parts of a question that must stay as the adapter learnt them, so that scans continue to use that adapter."""
    if folder is None:
        return FixedParts(words=False, budget=False)
    larger = replace(question, max_pixels=question.max_pixels + 1)
    return FixedParts(words=True, budget=not matches(read_card(folder), larger))
