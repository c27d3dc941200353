"""Which adapter answers while a check is tuned: the one that a scan would use, or the one that was named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from models import pocket
from models.adapters import read_card
from models.canary import try_canary
from models.errors import ModelInvalid
from models.types import Question
from scanfleet.checks import Check
from scanfleet.settings import Settings
from scanfleet.store.adapters import AdapterInfo
from worker.adapters import AdapterFolders
from worker.model import Model
from worker.score_alone import resolve_alone
from worker.scorers import answers, question_of
from worker.tune.space import Kept

SHIPPED = "shipped"


def adapter_folder(
    settings: Settings, model: Model, check: Check, *, given: str | None, registered: dict[str, Any] | None
) -> tuple[Path | None, list[str]]:
    """The folder of the adapter, tried by its canary, and notes for the report. None: the base alone.

    given: a folder, SHIPPED or None. Raises BadSettings, ModelInvalid for one that must not be used.
    """
    if registered is not None:
        return _registered(settings, model, check, AdapterInfo(**registered))
    if given is None:
        return None, []
    folder = None if given == SHIPPED else Path(given)
    made = resolve_alone(model, check.model_copy(update={"crop": "never"}), folder).scorer.identity.adapter_sha256
    return (pocket.adapter_folder(check.name) if folder is None and made is not None else folder), []


def _registered(settings: Settings, model: Model, check: Check, info: AdapterInfo) -> tuple[Path | None, list[str]]:
    folder = AdapterFolders(settings).find(info)
    card, question = read_card(folder), question_of(check)
    if not answers(card, question):
        return None, [
            f"adapter {info.id} answers other words than the check has now: the base answers alone, as in scans"
        ]
    scorer, base = model.scorer(card.question, folder), model.scorer(card.question, None)
    problem = None if card.canary is None else try_canary(card.canary, folder, adapter=scorer, base=base).problem()
    if problem is not None:
        raise ModelInvalid(f"adapter {folder.name}: {problem}")
    return folder, []


def kept_of(question: Question, folder: Path | None) -> Kept:
    """What of a question must stay as an adapter learnt it, so that scans go on using that adapter."""
    if folder is None:
        return Kept(words=False, budget=False)
    larger = replace(question, max_pixels=question.max_pixels + 1)
    return Kept(words=True, budget=not answers(read_card(folder), larger))
