"""The scorer of a check without a database: a given adapter, else the shipped one, else the base alone.

It is made as in `worker.scoring.factory`, so its margins and decisions equal those of a fleet with the same adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from scanfleet.checks.check import Check, builtin_names
from scanfleet.errors import BadSettings, DeviceUnavailable
from scanfleet.models import pocket
from scanfleet.models.adapters.canary import try_canary
from scanfleet.models.adapters.card import CARD, AdapterCard, read_card
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.inputs.sources import POCKET
from scanfleet.models.types import Question
from scanfleet.worker.scoring.boxes import box_pass_of
from scanfleet.worker.scoring.crop import Margins, crop_setup_of, margins_of
from scanfleet.worker.scoring.decisions import Policy, certified_at
from scanfleet.worker.scoring.explanations import explain_pass_of
from scanfleet.worker.scoring.factory import Resolved, asked_alone, knows, matches, mode_of, question_of, scorer_of
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()

NO_ROW = 0  # scorer id without a database


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    folder: Path
    card: AdapterCard


def resolve_alone(model: Model, check: Check, adapter: Path | None) -> Resolved:
    """Return everything that scores the images of a check.

    adapter: the folder of the only adapter to use; None: the shipped one, if there is one.

    Raises BadSettings for an adapter that cannot be used, DeviceUnavailable.
    """
    question = question_of(check)
    try:
        chosen = _Chosen(folder=adapter, card=read_card(adapter)) if adapter else _shipped(model, check, question)
        _require_no_steps(question, chosen)
        scorer = scorer_of(model, check, chosen.folder if chosen else None)
        boxes = box_pass_of(model, check, question, chosen.folder if chosen else None)
        explain = explain_pass_of(model, check, question, chosen.folder if chosen else None)
        if chosen is not None:
            _require_canary(model, chosen)
        margins = _margins(check, question, chosen.card if chosen else None, precision=model.identity.precision)
        crop_setup = crop_setup_of(
            model, check, question, chosen.folder if chosen else None, scorer=scorer, band=margins.band
        )
    except ModelInvalid as error:
        raise BadSettings(f"check {check.name}: {error}") from error
    except ModelUnavailable as error:
        raise DeviceUnavailable(f"check {check.name}: {error}") from error
    mode = mode_of(question, chosen.card if chosen else None, asked=asked_alone(model, question))
    return Resolved(
        scorer_id=NO_ROW,
        scorer=scorer,
        policy=margins.policy,
        mode=mode,
        boxes=boxes,
        explain=explain,
        crop_setup=crop_setup,
        frames=check.frames,
    )


def _require_no_steps(question: Question, chosen: _Chosen | None) -> None:
    if chosen is not None and question.steps:
        raise ModelInvalid("a check in steps runs on the base model alone: leave --adapter out")


def _shipped(model: Model, check: Check, question: Question) -> _Chosen | None:
    identity = model.identity
    folder = pocket.adapter_folder(check.name)
    if identity.base_model != POCKET or check.name not in builtin_names() or not (folder / CARD).is_file():
        return None
    card = read_card(folder)
    if card.base_revision != identity.revision:
        return None
    if not knows(card, question):
        log.warning("adapter_for_other_prompt", check=check.name, adapter=str(folder))
        return None
    return _Chosen(folder=folder, card=card)


def _require_canary(model: Model, chosen: _Chosen) -> None:
    if chosen.card.canary is None:
        return
    made, alone = model.scorer(chosen.card.learnt, chosen.folder), model.plain(chosen.card.learnt)
    problem = try_canary(chosen.card.canary, chosen.folder, adapter=made, base=alone).problem()
    if problem is not None:
        raise ModelInvalid(f"adapter {chosen.folder.name}: {problem}")


def _margins(check: Check, question: Question, card: AdapterCard | None, *, precision: str) -> Margins:
    if card is None:
        return margins_of(check, Policy(question=question), same_budget=True, fitted=None)
    held = Policy(question=question, calibrator=card.calibrator, thresholds=card.thresholds)
    share = certified_at(card.metrics, card.calibrator)
    own = held.in_archive(check.prevalence, certified_at=share).at_precision(precision)
    return margins_of(check, own, same_budget=matches(card, question), fitted=None)
