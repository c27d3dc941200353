"""Makes the scorer of a batch from check, adapter, canary and calibrator, and records it in the database."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from scanfleet.checks.check import Check
from scanfleet.checks.crop import crop_text
from scanfleet.checks.frames import DEFAULT_FRAMES, FrameSettings
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.calibrations import Configuration, Fitted, calibration_for, hash_for
from scanfleet.db.results.scorers import IMAGE_FIRST, ROTATED, ScorerRef, ScorerSpec, Shift, record_shift, scorer_id
from scanfleet.db.scans.checks import scored_check
from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import DeviceUnavailable
from scanfleet.models.adapters.calibration import Thresholds
from scanfleet.models.adapters.canary import try_canary
from scanfleet.models.adapters.card import CARD, AdapterCard, read_card
from scanfleet.models.adapters.likeness import digest_in
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.scoring.sequential import in_steps
from scanfleet.models.types import Question, Reading, Scorer, Step
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.scoring.boxes import BoxPass, box_pass_of
from scanfleet.worker.scoring.crop import CropSetup, Margins, crop_setup_of, margins_of
from scanfleet.worker.scoring.crop_selection import policy_of
from scanfleet.worker.scoring.decisions import Policy, certified_at, read_policy
from scanfleet.worker.scoring.explanations import ExplainPass, explain_pass_of
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """Everything that a batch needs to turn its images into verdicts."""

    scorer_id: int  # row in the database
    ref: ScorerRef | None = None  # the same, with what it stands for; None: nothing is written to a database
    scorer: Scorer
    policy: Policy
    mode: str = ""  # how it scores, see `mode_of`
    boxes: BoxPass | None = None  # None: the check does not ask for boxes
    explain: ExplainPass | None = None  # None: the check does not ask for explanations
    crop_setup: CropSetup | None = None  # None: the check has no crop pass
    frames: FrameSettings = DEFAULT_FRAMES  # which pictures of a file that holds several

    def flags(self, reading: Reading, *, complete: bool = True) -> bool:
        """Return whether this image is flagged. complete: as in `Policy.decide`."""
        return math.isfinite(reading.margin) and self.policy.decide(reading, complete=complete).decision == "flag"

    @property
    def users(self) -> tuple[object, ...]:
        """All that generates or scores with the adapter."""
        passes = (
            None if self.boxes is None else self.boxes.finder,
            None if self.explain is None else self.explain.explainer,
        )
        return self.scorer, *(each for each in passes if each is not None)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A scorer to be made: a check, and the adapter to use; None: the base alone.

    `key` covers the configuration by its content: ids of rows name others once a database was restored.

    fitted: calibrator and thresholds in the database for exactly this configuration; None: there are none.
    """

    check_id: int
    check: Check
    adapter: AdapterInfo | None
    fitted: Fitted | None
    spec: ScorerSpec

    @property
    def key(self) -> str:
        return f"{self.spec.key} {self.check.hash} {self.adapter_sha256}"

    @property
    def adapter_id(self) -> int | None:
        return self.spec.adapter_id

    @property
    def adapter_sha256(self) -> str | None:
        return None if self.adapter is None else self.adapter.weights_sha256


class ScorerMaker:
    """Makes scorers on one base model, each tested by its canary. `worker.scoring.champions` selects the adapter."""

    def __init__(self, engine: sa.Engine, model: Model, settings: Settings) -> None:
        self._engine = engine
        self._model = model
        self._folders = AdapterFolders(settings)

    def wanted(self, check_id: int, check: Check, adapter: AdapterInfo | None) -> Wanted:
        """Raises DatabaseUnavailable."""
        fitted = self._fitted(check, adapter)
        margins = margins_of(check, self._own(check, adapter), same_budget=True, fitted=fitted)
        spec = self._spec(check_id, check, adapter, margins, fitted)
        return Wanted(check_id=check_id, check=check, adapter=adapter, fitted=fitted, spec=spec)

    def make(self, wanted: Wanted) -> Resolved:
        """Raises ModelInvalid if the adapter must not be used.

        Raises StoreUnavailable, DatabaseUnavailable, and DeviceUnavailable for any other error of the model.
        """
        try:
            return self._make(wanted)
        except (ModelUnavailable, ModelInvalid) as error:
            if isinstance(error, ModelInvalid) and wanted.adapter is not None:
                raise
            raise DeviceUnavailable(f"check {wanted.check.name}: {error}") from error

    def _make(self, wanted: Wanted) -> Resolved:
        check, adapter, question = wanted.check, wanted.adapter, question_of(wanted.check)
        fitted, folder = wanted.fitted, None if adapter is None else self._folders.find(adapter)
        if adapter is not None and folder is not None and not knows(read_card(folder), question):
            _require_unaltered(adapter, check, folder)
            # A check of the same name with another prompt or other labels: the adapter was not trained for them.
            log.warning("adapter_for_other_prompt", check=check.name, adapter=adapter.id)
            adapter = folder = None
            fitted = self._fitted(check, None)
        scorer = scorer_of(self._model, check, folder)
        boxes = box_pass_of(self._model, check, question, folder)
        explain = explain_pass_of(self._model, check, question, folder)
        if adapter is not None:
            _require_registered(adapter, scorer)
        shift = None if folder is None else self._try_canary(folder)
        card = None if folder is None else read_card(folder)
        same_budget = card is None or matches(card, question)
        margins = margins_of(check, self._own(check, adapter), same_budget=same_budget, fitted=fitted)
        crop_setup = self._crop_setup(check, question, folder, scorer, margins)
        likeness = digest_in(card.metrics) if card is not None and same_budget else None
        spec = self._spec(wanted.check_id, check, adapter, margins, fitted)
        mode = mode_of(question, card, asked=asked_alone(self._model, question))
        spec = replace(spec, mode=mode, likeness=likeness)
        with transaction(self._engine) as connection:
            spec = replace(spec, check_id=scored_check(connection, wanted.check_id))
            row = scorer_id(connection, spec)
            if shift is not None:
                record_shift(connection, row, shift)
        log.info("scorer_ready", check=check.name, scorer=row, adapter=spec.adapter_id)
        return Resolved(
            scorer_id=row,
            ref=ScorerRef(
                id=row,
                key=spec.key,
                check=check,
                adapter_sha256=None if adapter is None else adapter.weights_sha256,
            ),
            scorer=scorer,
            policy=margins.policy.saying(check.unlike == "say"),
            mode=spec.mode or "",
            boxes=boxes,
            explain=explain,
            crop_setup=crop_setup,
            frames=check.frames,
        )

    def _crop_setup(
        self, check: Check, question: Question, folder: Path | None, scorer: Scorer, margins: Margins
    ) -> CropSetup | None:
        """Raises DeviceUnavailable if the model does not support the crop pass: that is not the adapter's error."""
        try:
            return crop_setup_of(self._model, check, question, folder, scorer=scorer, band=margins.band)
        except ModelInvalid as error:
            raise DeviceUnavailable(f"check {check.name}: {error}") from error

    def _try_canary(self, folder: Path) -> Shift | None:
        """Return how far the adapter's margins moved, under the pixel budget of its training; None: it has no canary.

        Raises ModelInvalid if the adapter does not score here as it did at the end of its training.
        """
        card = read_card(folder)
        if card.canary is None:
            return None
        made, alone = self._model.scorer(card.learnt, folder), self._model.plain(card.learnt)
        found = try_canary(card.canary, folder, adapter=made, base=alone)
        problem = found.problem()
        if problem is not None:
            raise ModelInvalid(f"adapter {folder.name}: {problem}")
        return Shift(max=found.max_shift, mean=found.mean_shift, n=found.n, against=found.against)

    def _own(self, check: Check, adapter: AdapterInfo | None) -> Policy:
        """Return the adapter's own policy, in the precision of this model."""
        question = question_of(check)
        if adapter is None:
            return Policy(question=question)
        held = read_policy(question, calibrator=adapter.calibrator, thresholds=adapter.thresholds)
        share = certified_at(adapter.metrics, held.calibrator)
        return held.in_archive(check.prevalence, certified_at=share).at_precision(self._model.identity.precision)

    def _fitted(self, check: Check, adapter: AdapterInfo | None) -> Fitted | None:
        identity = self._model.identity
        configuration = Configuration(
            check_hash=hash_for(
                check.scored_hash, asked="" if adapter else asked_alone(self._model, question_of(check))
            ),
            base_model=identity.base_model,
            base_revision=identity.revision,
            precision=identity.precision,
            weights_sha256=None if adapter is None else adapter.weights_sha256,
        )
        with reading(self._engine) as connection:
            return calibration_for(connection, configuration)

    def _spec(
        self, check_id: int, check: Check, adapter: AdapterInfo | None, margins: Margins, fitted: Fitted | None
    ) -> ScorerSpec:
        identity, source = self._model.identity, fitted or adapter
        return ScorerSpec(
            check_id=check_id,
            base_model=identity.base_model,
            base_revision=identity.revision,
            precision=identity.precision,
            adapter_id=None if adapter is None else adapter.id,
            max_pixels=check.max_pixels,
            crop=crop_text(check.crop, band=margins.band.record()),
            calibrator=None if source is None or margins.policy.calibrator is None else source.calibrator,
            thresholds=_as_stored(margins.policy, None if source is None else source.thresholds),
        )


def _as_stored(policy: Policy, thresholds: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the policy's thresholds, as given if equal: a scorer's key must not change with our classes."""
    if policy.thresholds is None:
        return None
    if thresholds is not None and Thresholds(**thresholds) == policy.thresholds:
        return thresholds
    return asdict(policy.thresholds)


def _require_registered(adapter: AdapterInfo, scorer: Scorer) -> None:
    """Compare the digest of the loaded bytes: files may change after they were found."""
    if scorer.identity.adapter_sha256 != adapter.weights_sha256:
        raise ModelInvalid(f"{adapter.uri} changed while it was loaded: register and promote what is there now")


def _require_unaltered(adapter: AdapterInfo, check: Check, folder: Path) -> None:
    """Raise ModelInvalid if the card no longer asks the very check that the adapter was registered for."""
    if adapter.check_hash == check.scored_hash and not check.steps:
        raise ModelInvalid(f"{folder / CARD} asks another question than when the adapter was registered: restore it")


def matches(card: AdapterCard, question: Question) -> bool:
    """Return whether an adapter was made for exactly what the model reads. For steps none is: the base answers them."""
    return card.learnt.as_read() == card.asked(question).as_read() and not question.steps


def knows(card: AdapterCard, question: Question) -> bool:
    """Return whether an adapter was made for a question's prompt and labels, under any pixel budget."""
    return card.answers(question) and not question.steps


def asked_alone(model: Model, question: Question) -> str:
    """Return how the base alone is asked, as it stands behind the mode."""
    order = question.order or model.order
    return (IMAGE_FIRST if order == "image-first" else "") + (ROTATED if model.rotates else "")


def mode_of(question: Question, card: AdapterCard | None, *, asked: str) -> str:
    """Return how a scorer answers: zero-shot or zero-shot steps, and how the base is asked; lora, head or lora+head."""
    if card is None:
        return ("zero-shot steps" if question.steps else "zero-shot") + asked
    return "+".join(card.parts)


def scorer_of(model: Model, check: Check, adapter: Path | None) -> Scorer:
    """Return one scorer, also for a check with several steps. Raises ModelInvalid, ModelUnavailable."""
    question = question_of(check)
    if question.steps:
        return in_steps(question, lambda step: model.scorer(step, None), model.together)
    if isinstance(check.crop, str):
        return model.scorer(question, adapter)
    return model.scorer(question, adapter, policy=policy_of(check, check.crop))


def question_of(check: Check) -> Question:
    """Return the model's part of a check."""
    return Question(
        name=check.name,
        prompt=check.prompt,
        labels=check.labels,
        flags=frozenset(check.flags),
        descriptions=dict(check.descriptions),
        max_pixels=check.max_pixels,
        min_pixels=check.min_pixels,
        steps=tuple(Step(prompt=step.prompt, answers=step.answers) for step in check.steps),
        order=check.order,
    )
