"""What answers the images of a batch, and how it is made: check, adapter, canary, calibrator, a row in the ledger."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from models.adapters import AdapterCard, read_card
from models.canary import try_canary
from models.errors import ModelInvalid, ModelUnavailable
from models.sequential import in_steps
from models.types import Question, Reading, Scorer, Step
from scanfleet.checks import Check
from scanfleet.crops import crop_text
from scanfleet.errors import DeviceUnavailable
from scanfleet.settings import Settings
from scanfleet.store.adapters import AdapterInfo
from scanfleet.store.engine import transaction
from scanfleet.store.scorers import ScorerSpec, Shift, note_shift, scorer_id
from worker.adapters import AdapterFolders
from worker.boxes import BoxPass, box_pass_of
from worker.decisions import CALIBRATED_PRECISIONS, Policy, read_policy
from worker.model import Model

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """Everything that turns the images of a batch into verdicts."""

    scorer_id: int  # row of the ledger
    scorer: Scorer
    policy: Policy
    mode: str = ""  # how it answers, see `mode_of`
    boxes: BoxPass | None = None  # None: the check does not ask for boxes

    def wants_boxes(self, reading: Reading) -> bool:
        """Whether this image is flagged, and somebody can be asked where."""
        if self.boxes is None or not math.isfinite(reading.margin):
            return False
        return self.policy.decide(reading).decision == "flag"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A check and the adapter that is to answer it; None: the base alone. `key` is that of the whole configuration."""

    check_id: int
    check: Check
    adapter: AdapterInfo | None
    spec: ScorerSpec

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def adapter_id(self) -> int | None:
        return self.spec.adapter_id


class ScorerMaker:
    """Makes scorers, each tried by its adapter's canary, on one base model. Which one is made: `worker.champions`."""

    def __init__(self, engine: sa.Engine, model: Model, settings: Settings) -> None:
        self._engine = engine
        self._model = model
        self._folders = AdapterFolders(settings)

    def wanted(self, check_id: int, check: Check, adapter: AdapterInfo | None) -> Wanted:
        return Wanted(check_id=check_id, check=check, adapter=adapter, spec=self._spec(check_id, check, adapter))

    def make(self, wanted: Wanted) -> Resolved:
        """Raises ModelInvalid when the adapter must not be used, StoreUnavailable and DatabaseUnavailable, and
        DeviceUnavailable for everything else that keeps the model from answering."""
        try:
            return self._make(wanted)
        except ModelUnavailable as error:
            raise DeviceUnavailable(f"check {wanted.check.name}: {error}") from error
        except ModelInvalid as error:
            if wanted.adapter is not None:
                raise
            raise DeviceUnavailable(f"check {wanted.check.name}: {error}") from error

    def _make(self, wanted: Wanted) -> Resolved:
        check, adapter, question = wanted.check, wanted.adapter, question_of(wanted.check)
        folder = None if adapter is None else self._folders.find(adapter)
        if adapter is not None and folder is not None and not answers(read_card(folder), question):
            # A check of the same name with other words: the adapter never learnt to answer those.
            log.warning("adapter_answers_other_words", check=check.name, adapter=adapter.id)
            adapter = folder = None
        scorer = scorer_of(self._model, question, folder)
        boxes = box_pass_of(self._model, check, question, folder)
        if adapter is not None:
            _require_registered(adapter, scorer)
        shift = None if folder is None else self._ask_canary(folder, scorer)
        mode = mode_of(question, None if folder is None else read_card(folder))
        spec = replace(self._spec(wanted.check_id, check, adapter), mode=mode)
        policy = read_policy(question, calibrator=spec.calibrator, thresholds=spec.thresholds)
        with transaction(self._engine) as connection:
            row = scorer_id(connection, spec)
            if shift is not None:
                note_shift(connection, row, shift)
        log.info("scorer_ready", check=check.name, scorer=row, adapter=spec.adapter_id)
        return Resolved(scorer_id=row, scorer=scorer, policy=policy, mode=mode, boxes=boxes)

    def _ask_canary(self, folder: Path, scorer: Scorer) -> Shift | None:
        """How far its margins moved; None: the adapter has no canary.

        Raises ModelInvalid when the adapter does not score here as it did at the end of its training.
        """
        canary = read_card(folder).canary
        if canary is None:
            return None
        alone = self._model.scorer(scorer.question, None)
        found = try_canary(canary, folder, adapter=scorer, base=alone)
        problem = found.problem()
        if problem is not None:
            raise ModelInvalid(f"adapter {folder.name}: {problem}")
        return Shift(max=found.max_shift, mean=found.mean_shift, n=found.n, against=found.against)

    def _spec(self, check_id: int, check: Check, adapter: AdapterInfo | None) -> ScorerSpec:
        identity = self._model.identity
        calibrator, thresholds = _read_by(adapter, question_of(check), identity.precision)
        return ScorerSpec(
            check_id=check_id,
            base_model=identity.base_model,
            base_revision=identity.revision,
            precision=identity.precision,
            adapter_id=None if adapter is None else adapter.id,
            max_pixels=check.max_pixels,
            crop=crop_text(check.crop),
            calibrator=calibrator,
            thresholds=thresholds,
        )


def _read_by(
    adapter: AdapterInfo | None, question: Question, precision: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Calibrator and thresholds of a scorer in this precision, as its row keeps them."""
    if adapter is None:
        return None, None
    if precision in CALIBRATED_PRECISIONS:
        return adapter.calibrator, adapter.thresholds
    fitted = read_policy(question, calibrator=adapter.calibrator, thresholds=adapter.thresholds)
    held = fitted.at_precision(precision)
    return None, None if held.thresholds is None else asdict(held.thresholds)


def _require_registered(adapter: AdapterInfo, scorer: Scorer) -> None:
    """The digest is of the very bytes that were loaded: files may change after they were found."""
    if scorer.identity.adapter_sha256 != adapter.weights_sha256:
        raise ModelInvalid(f"{adapter.uri} changed while it was loaded: register and promote what is there now")


def answers(card: AdapterCard, question: Question) -> bool:
    """Whether an adapter was made for this very question. None was for steps: those are asked of the base alone."""
    return card.question == question and not question.steps


def mode_of(question: Question, card: AdapterCard | None) -> str:
    """How a scorer answers, in words: zero-shot, zero-shot steps, lora, head, lora+head."""
    if card is None:
        return "zero-shot steps" if question.steps else "zero-shot"
    return "+".join(card.parts)


def scorer_of(model: Model, question: Question, adapter: Path | None) -> Scorer:
    """One scorer, however many questions it asks. Raises ModelInvalid, ModelUnavailable."""
    if question.steps:
        return in_steps(question, lambda step: model.scorer(step, None))
    return model.scorer(question, adapter)


def question_of(check: Check) -> Question:
    """The model-side half of a check."""
    return Question(
        name=check.name,
        prompt=check.prompt,
        labels=check.labels,
        flags=frozenset(check.flags),
        descriptions=dict(check.descriptions),
        max_pixels=check.max_pixels,
        min_pixels=check.min_pixels,
        steps=tuple(Step(prompt=step.prompt, answers=step.answers) for step in check.steps),
    )
