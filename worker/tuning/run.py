"""From labelled images to a report: search on one part, measure on the other, calibrate the chosen setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scanfleet.checks.check import Check
from scanfleet.db.results.calibrations import hash_for
from scanfleet.models.inputs.wording import PLAIN, names, variant
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import ModelIdentity, Order, Question
from scanfleet.stats.proportions import positives_text
from scanfleet.worker.evaluation.calibrate import Measured, calibrated_from
from scanfleet.worker.tuning.evaluate import Evaluator, Scores
from scanfleet.worker.tuning.objective import Objective
from scanfleet.worker.tuning.report import images_record, record_of
from scanfleet.worker.tuning.search import ScoredSetting, Watch, front, search
from scanfleet.worker.tuning.search_space import (
    CheckSetting,
    FirstPass,
    FixedParts,
    Space,
    as_check,
    current_setting,
    first_budgets,
)
from scanfleet.worker.tuning.select import MAX_ON_FRONT, Selection, select_setting
from scanfleet.worker.tuning.splits import Splits, halves, splits_of

FEW_IMAGES = 50  # of the held-out part, of each side: with fewer only a large change can be measured


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The request. name: of the check that stores the chosen setting. at_fpr: for a check with flags."""

    check: Check
    name: str
    max_cost: float
    trials: int
    seed: int
    at_fpr: float


class Tuning:
    """One tuning. fixed: parts of the setting that stay."""

    def __init__(
        self,
        plan: Plan,
        *,
        question: Question,
        identity: ModelIdentity,
        order: Order | None = None,
        asked: Callable[[Question], str] = lambda _: "",
        fixed: FixedParts,
        examples: Sequence[Example],
        scores: Scores,
    ) -> None:
        """Raises BadLabels for too few images."""
        self._plan, self._question, self._identity, self._fixed = plan, question, identity, fixed
        self._order = order
        self._asked = asked
        self._examples, self._scores = examples, scores
        self.parts: Splits = splits_of(examples, question, seed=plan.seed)
        self._objective = Objective(at_fpr=plan.at_fpr if question.flags else None)
        self._evaluator = Evaluator(
            scores=scores, examples=examples, check=plan.check, question=question, search=self.parts.search
        )

    def run(self, watch: Watch, *, searched: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The report as plain JSON. searched: called when the search has ended. Raises what the device raises."""
        plan = self._plan
        current = current_setting(plan.check)
        value, tokens = self._score(current, base=None)
        result = search(
            self._space(tokens),
            lambda setting: self._score(setting, base=tokens),
            trials=plan.trials,
            limit=plan.max_cost,
            seed=plan.seed,
            watch=watch,
        )
        searched()
        best = front(result.tried, limit=plan.max_cost, most=MAX_ON_FRONT)
        selection = select_setting(
            self._evaluator,
            self._objective,
            [one for one in best if one.setting != current],
            current=current,
            images=self.parts.held_out,
            limit=plan.max_cost,
            seed=plan.seed,
        )
        record = record_of(
            objective=self._objective,
            limit=plan.max_cost,
            seed=plan.seed,
            searched=result,
            selection=selection,
            current=ScoredSetting(setting=current, value=value, cost=1.0),
        )
        tuned = None if selection.chosen is None else self._tuned(selection.front[selection.chosen].setting)
        subject = {"check": plan.check.name, "version": plan.check.hash, "model": vars(self._identity)}
        return subject | record | {"tuned": tuned, "notes": self._notes(selection, tuned)}

    def images_record(self, left_out: dict[str, str]) -> dict[str, Any]:
        return images_record(self.parts, self._examples, self._question, left_out)

    def _score(self, setting: CheckSetting, *, base: float | None) -> tuple[float, float]:
        """(objective, cost) on the search part. base: mean tokens that the cost is a ratio to; None: in tokens."""
        images = self.parts.search
        outcome = self._evaluator.outcome(setting, images)
        value = self._objective.value(outcome, self._evaluator.truth(images))
        return value, outcome.mean_tokens / (base or 1.0)

    def _space(self, base: float) -> Space:
        """base: mean tokens of the current check on the search part."""
        limit = self._plan.max_cost

        def headroom(first: FirstPass) -> float:
            return limit * base / self._scores.first_tokens(first, self.parts.search) - 1

        return Space(
            check=self._plan.check,
            words=(PLAIN,) if self._fixed.words else names(),
            budgets=first_budgets(limit=limit, fixed=self._fixed.budget),
            other_order=self._other_order(),
            headroom=headroom,
        )

    def _other_order(self) -> Order | None:
        own = self._question.order or self._order
        if self._fixed.words or own is None:
            return None
        return "image-first" if own == "instruction-first" else "instruction-first"

    def _tuned(self, setting: CheckSetting) -> dict[str, Any]:
        plan = self._plan
        question = variant(self._question, setting.first.words)
        check = as_check(plan.check, setting, question, name=plan.name)
        asked = self._asked(replace(question, order=check.order))
        identity = self._identity
        return {
            "check": check.as_file(),
            "hash": check.hash,
            "configuration": {
                "check_hash": hash_for(check.scored_hash, asked=asked),
                "base_model": identity.base_model,
                "base_revision": identity.revision,
                "precision": identity.precision,
                "weights_sha256": identity.adapter_sha256,
            },
            "fitted": self._fitted(setting),
        }

    def _fitted(self, setting: CheckSetting) -> dict[str, Any]:
        """Calibrator and thresholds from the held-out images alone, and the gate's thresholds from the search part.

        {"calibrator", "thresholds", "first_thresholds", "metrics"} as in `scanfleet.db.results.calibrations`. A target
        that these images cannot certify has no threshold; the metrics say so.
        """
        plan, images, question = self._plan, self.parts.held_out, self._question
        outcome = self._evaluator.outcome(setting, images)
        events = self._evaluator.truth(images).positive if question.flags else outcome.right
        measured = {
            image: Measured(
                key=self._examples[image].key,
                margin=float(outcome.margins[at]),
                event=bool(events[at]),
                right=bool(outcome.right[at]),
                cluster=self._examples[image].cluster,
            )
            for at, image in enumerate(images)
        }
        one, other = ([measured[image] for image in half] for half in halves(images, self._examples, seed=plan.seed))
        targets, prevalence = (plan.check.target_recall, plan.check.target_precision), plan.check.prevalence
        found = calibrated_from(one, other, question, *targets, prevalence=prevalence)
        gate = None if isinstance(setting.crop, str) else self._evaluator.first_thresholds(setting.first)
        return {
            "calibrator": None if found.calibrator is None else asdict(found.calibrator),
            "thresholds": None if found.thresholds is None else asdict(found.thresholds),
            "first_thresholds": None if gate is None else asdict(gate),
            "metrics": found.metrics | {"split": "held out by tune"},
        }

    def _notes(self, selection: Selection, tuned: dict[str, Any] | None) -> list[str]:
        notes = []
        if self._fixed.words:
            parts = "prompt and first pixel budget" if self._fixed.budget else "prompt"
            notes.append(f"fixed, because the adapter was trained with it: {parts}")
        if not selection.grew:
            notes.append(
                "the larger budget read no image larger: the images are too small, or the cost limit allows no more"
            )
        truth = self._evaluator.truth(self.parts.held_out)
        n = int(truth.positive.sum())
        least = min(n, len(truth.positive) - n) if self._question.flags else len(truth.positive)
        if least < FEW_IMAGES:
            images = f"{least} held-out image{'' if least == 1 else 's'}"
            side = " of the rarer side" if self._question.flags else ""
            notes.append(f"{images}{side}: only a large change can be measured on so few")
        metrics = {} if tuned is None else tuned["fitted"]["metrics"]
        for target in ("recall", "precision"):
            certificate = metrics.get(f"{target}_certificate")
            if certificate is not None and not certificate["met"]:
                share = certificate["prevalence"]
                notes.append(
                    f"{target} {certificate['target']:g}{'' if share is None else f' {positives_text(share)}'} "
                    "cannot be certified on the held-out images "
                    f"({certificate['achieved']:.3f} of {certificate['trials']}): it has no threshold"
                )
        return notes
