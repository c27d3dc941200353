"""Several questions in turn ("is there text?", "was it added on top?"), as one scorer.

    log p(label) = logsumexp over the paths that lead to it of the sum of log p(answer | its step) along the path

Each p(answer | step) is one prefill, normalised over the step's answers. A further step is asked only of images that
get there with a probability of at least FLOOR. Where it is not asked, all of that probability is booked to each label
behind it, and once to each side of the margin that has such labels: upper bounds, too high by less than FLOOR. A side
that holds half of the probability or more moves by less than 0.002 logits; one that lies wholly behind is bounded by
log FLOOR = -6.9.

Who is asked on is decided image by image, so that neighbours make no difference. The same labels asked of in one
prefill are a plain question with as many labels. Knows no torch: the steps may be scorers of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from PIL import Image

from models.scoring.margin import logsumexp, margin_of
from models.types import NEXT, Detail, ModelIdentity, Prepared, Question, Reading, Scorer, Step

FLOOR = 1e-3  # probability of getting to a step, under which it is not asked


def step_questions(question: Question) -> tuple[Question, ...]:
    """What each step asks: a plain question whose labels are the step's answers."""
    return tuple(
        Question(
            name=f"{question.name}/{number}",
            prompt=step.prompt,
            labels=tuple(answer for answer, _ in step.answers),
            flags=frozenset(),
            max_pixels=question.max_pixels,
            min_pixels=question.min_pixels,
        )
        for number, step in enumerate(question.steps, start=1)
    )


def in_steps(question: Question, scorer_of: Callable[[Question], Scorer]) -> SequentialScorer:
    """A scorer for a question with steps, from one scorer a step."""
    return SequentialScorer(question=question, scorers=[scorer_of(asked) for asked in step_questions(question)])


class SequentialScorer:
    """Implements `models.types.Scorer` over one scorer a step, all of the same base and pixel budget."""

    def __init__(self, *, question: Question, scorers: Sequence[Scorer]) -> None:
        self._question = question
        self._scorers = scorers
        self._behind = [_labels(question.steps[number:]) for number in range(len(question.steps) + 1)]

    @property
    def question(self) -> Question:
        return self._question

    @property
    def identity(self) -> ModelIdentity:
        return self._scorers[0].identity

    @property
    def detail(self) -> Detail | None:
        return self._scorers[0].detail

    def prepare(self, image: Image.Image) -> Prepared:
        """Resize one image, once for all steps."""
        return self._scorers[0].prepare(image)

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        """One forward a step over those images that get there; a Reading each, in their order."""
        paths = [_Path(image=image) for image in prepared]
        asked = paths
        for step, scorer in zip(self._question.steps, self._scorers, strict=True):
            if not asked:
                break
            for path, reading in zip(asked, scorer.score([path.image for path in asked]), strict=True):
                path.take(step, reading)
            asked = [path for path in asked if path.reach >= math.log(FLOOR)]
        return [path.reading(self._question, behind=self._behind[path.n_steps]) for path in paths]


@dataclass(kw_only=True, eq=False)
class _Path:
    """What the steps so far said of one image. reach: log-probability of getting to the next one."""

    image: Prepared
    reach: float = 0.0
    mass: float = 1.0
    n_steps: int = 0
    ends: dict[str, list[float]] = field(default_factory=dict)  # label -> log-probabilities of paths that ended there

    def take(self, step: Step, reading: Reading) -> None:
        total = logsumexp(reading.logits)
        onward = []
        for (_, to), logit in zip(step.answers, reading.logits, strict=True):
            path = self.reach + logit - total
            if to == NEXT:
                onward.append(path)
            else:
                self.ends.setdefault(to, []).append(path)
        self.reach = logsumexp(onward)
        self.mass = min(self.mass, reading.mass)
        self.n_steps += 1

    def reading(self, question: Question, *, behind: Collection[str]) -> Reading:
        logits = tuple(self._sum({label}, behind) for label in question.labels)
        margin = margin_of(logits, question.labels, question.flags)
        if question.flags:
            others = set(question.labels) - question.flags
            margin = self._sum(question.flags, behind) - self._sum(others, behind)
        return Reading(margin=margin, logits=logits, mass=self.mass, visual_tokens=self.image.visual_tokens)

    def _sum(self, labels: Collection[str], behind: Collection[str]) -> float:
        """log p of these labels together, with all of `reach` where one of them lies behind a step not asked."""
        found = [path for label in labels for path in self.ends.get(label, ())]
        return logsumexp([*sorted(found), *([self.reach] if set(labels) & set(behind) else [])])


def _labels(steps: Sequence[Step]) -> frozenset[str]:
    """That can still come out of these steps."""
    return frozenset(to for step in steps for _, to in step.answers if to != NEXT)
