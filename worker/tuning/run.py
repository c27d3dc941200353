"""From labelled images to a report: search on one part, judge on the other, fit what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.inputs.wording import PLAIN, names, variant
from models.training.data.types import Example
from models.types import ModelIdentity, Question
from scanfleet.checks.check import Check
from worker.tuning.calibrate import fitted
from worker.tuning.evaluate import Evaluator, Scores
from worker.tuning.objective import Objective
from worker.tuning.report import images_record, record_of
from worker.tuning.search import Tried, Watch, front, search
from worker.tuning.search_space import First, Kept, Setting, Space, as_check, first_budgets, standing
from worker.tuning.select import MOST_ON_FRONT, Judged, judge
from worker.tuning.splits import Splits, splits_of

FEW_IMAGES = 50  # of the held-out part, of each side: under it only a large change can be told


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for. name: under which the chosen setting is to be stored. at_fpr: of a check with flags."""

    check: Check
    name: str
    max_cost: float
    trials: int
    seed: int
    at_fpr: float


class Tuning:
    """One tuning. kept: what of the question is not moved."""

    def __init__(
        self,
        plan: Plan,
        *,
        question: Question,
        identity: ModelIdentity,
        kept: Kept,
        examples: Sequence[Example],
        scores: Scores,
    ) -> None:
        """Raises BadLabels for too few images."""
        self._plan, self._question, self._identity, self._kept = plan, question, identity, kept
        self._examples, self._scores = examples, scores
        self.parts: Splits = splits_of(examples, question, seed=plan.seed)
        self._objective = Objective(at_fpr=plan.at_fpr if question.flags else None)
        self._evaluator = Evaluator(
            scores=scores, examples=examples, check=plan.check, question=question, search=self.parts.search
        )

    def run(self, watch: Watch, *, searched: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The report as plain JSON. searched: told when the search has ended. Raises what the device raises."""
        plan = self._plan
        stands = standing(plan.check)
        stood = self._score(stands, base=None)
        found = search(
            self._space(stood[1]),
            lambda setting: self._score(setting, base=stood[1]),
            trials=plan.trials,
            limit=plan.max_cost,
            seed=plan.seed,
            watch=watch,
        )
        searched()
        best = front(found.tried, limit=plan.max_cost, most=MOST_ON_FRONT)
        judged = judge(
            self._evaluator,
            self._objective,
            [one for one in best if one.setting != stands],
            standing=stands,
            images=self.parts.held_out,
            limit=plan.max_cost,
            seed=plan.seed,
        )
        record = record_of(
            objective=self._objective,
            limit=plan.max_cost,
            seed=plan.seed,
            searched=found,
            judged=judged,
            standing=Tried(setting=stands, value=stood[0], cost=1.0),
        )
        tuned = None if judged.chosen is None else self._tuned(judged.front[judged.chosen].setting)
        who = {"check": plan.check.name, "version": plan.check.hash, "model": vars(self._identity)}
        return who | record | {"tuned": tuned, "notes": self._notes(judged, tuned)}

    def images_record(self, left_out: dict[str, str]) -> dict[str, Any]:
        return images_record(self.parts, self._examples, self._question, left_out)

    def _score(self, setting: Setting, *, base: float | None) -> tuple[float, float]:
        """(objective, cost) on the search part. base: mean tokens that the cost is a ratio to; None: in tokens."""
        images = self.parts.search
        outcome = self._evaluator.outcome(setting, images)
        value = self._objective.value(outcome, self._evaluator.truth(images))
        return value, outcome.mean_tokens / (base or 1.0)

    def _space(self, base: float) -> Space:
        """base: mean tokens of the check as it stands, on the search part."""
        limit = self._plan.max_cost

        def room(first: First) -> float:
            return limit * base / self._scores.first_tokens(first, self.parts.search) - 1

        return Space(
            check=self._plan.check,
            words=(PLAIN,) if self._kept.words else names(),
            budgets=first_budgets(limit=limit, fixed=self._kept.budget),
            room=room,
        )

    def _tuned(self, setting: Setting) -> dict[str, Any]:
        plan = self._plan
        check = as_check(plan.check, setting, variant(self._question, setting.first.words), name=plan.name)
        identity = self._identity
        return {
            "check": check.as_file(),
            "hash": check.hash,
            "configuration": {
                "check_hash": check.hash,
                "base_model": identity.base_model,
                "base_revision": identity.revision,
                "precision": identity.precision,
                "weights_sha256": identity.adapter_sha256,
            },
            "fitted": fitted(
                self._evaluator,
                setting,
                self.parts.held_out,
                self._examples,
                check=plan.check,
                question=self._question,
                seed=plan.seed,
            ),
        }

    def _notes(self, judged: Judged, tuned: dict[str, Any] | None) -> list[str]:
        notes = []
        if self._kept.words:
            what = "words and first pixel budget" if self._kept.budget else "words"
            notes.append(f"the {what} are those that the adapter was trained on: they were not moved")
        if not judged.grew:
            notes.append("the larger budget read no image larger: they are no larger, or the cost limit leaves no room")
        truth = self._evaluator.truth(self.parts.held_out)
        n = int(truth.positive.sum())
        least = min(n, len(truth.positive) - n) if self._question.flags else len(truth.positive)
        if least < FEW_IMAGES:
            images = f"{least} held-out image{'' if least == 1 else 's'}"
            side = " of the rarer side" if self._question.flags else ""
            notes.append(f"{images}{side}: only a large change can be told on so few")
        metrics = {} if tuned is None else tuned["fitted"]["metrics"]
        for target in ("recall", "precision"):
            certificate = metrics.get(f"{target}_certificate")
            if certificate is not None and not certificate["met"]:
                notes.append(
                    f"{target} {certificate['target']:g} cannot be certified on the held-out images "
                    f"({certificate['achieved']:.3f} of {certificate['trials']}): its threshold is left open"
                )
        return notes
