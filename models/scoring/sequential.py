"""Several questions in turn ("is there text?", "was it added on top?"), as one scorer.

    log p(label) = logsumexp over its paths of the sum of log p(answer | its step) along the path

Each p(answer | step) is one prefill, normalised over the step's answers. A further step is read only for images that
reach it with a probability of at least FLOOR. Otherwise the whole of that probability is added to each label behind
the step, and once to each side of the margin that has such labels. These are upper bounds, too high by less than FLOOR.
A side that holds half of the probability or more moves by less than 0.002 logits; one that lies wholly behind the step
is bounded by log FLOOR = -6.9.

Where the image comes first, a further step is a few tokens behind it: all are read in one pass, and nothing is bounded.

The decision is made for each image alone, so neighbours make no difference. The same labels in one prefill are a plain
question with as many labels. Needs no torch: the steps may be scorers of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from PIL import Image

from scanfleet.models.scoring.margin import logsumexp, margin_of
from scanfleet.models.types import (
    NEXT,
    Detail,
    ModelIdentity,
    Prepared,
    Question,
    Reading,
    Resized,
    Scorer,
    SeveralScorer,
    Step,
)

FLOOR = 1e-3  # a step that an image reaches with less than this probability is not read


def step_questions(question: Question) -> tuple[Question, ...]:
    """Return a plain question for each step, whose labels are the step's answers."""
    return tuple(
        Question(
            name=f"{question.name}/{number}",
            prompt=step.prompt,
            labels=tuple(answer for answer, _ in step.answers),
            flags=frozenset(),
            max_pixels=question.max_pixels,
            min_pixels=question.min_pixels,
            order=question.order,
        )
        for number, step in enumerate(question.steps, start=1)
    )


def in_steps(
    question: Question,
    scorer_of: Callable[[Question], Scorer],
    together: Callable[[Sequence[Scorer]], SeveralScorer | None] = lambda _: None,
) -> SequentialScorer:
    """Make a scorer for a question with steps.

    Args:
        question: A question with steps.
        scorer_of: Makes the scorer of one step; all must have the same base and pixel budget.
        together: Returns how to read all steps in one pass; None: one by one.
    """
    scorers = [scorer_of(step) for step in step_questions(question)]
    image_first = all(scorer.question.image_first for scorer in scorers)
    return SequentialScorer(question=question, scorers=scorers, together=together(scorers) if image_first else None)


class SequentialScorer:
    """Implements `models.types.Scorer` over one scorer per step, all of the same base and pixel budget.

    Args:
        question: A question with steps.
        scorers: `[steps]`, in their order.
        together: Reads all steps in one pass; None: one by one, and only for the images that reach a step.
    """

    def __init__(self, *, question: Question, scorers: Sequence[Scorer], together: SeveralScorer | None = None) -> None:
        self._question = question
        self._scorers = scorers
        self._together = together
        self._behind = [_labels(question.steps[number:]) for number in range(len(question.steps) + 1)]

    @property
    def question(self) -> Question:
        return self._question

    @property
    def identity(self) -> ModelIdentity:
        return self._scorers[0].identity

    @property
    def detail(self) -> Detail | None:
        """The image size that `prepare` needs; None: all pixels."""
        return self._scorers[0].detail

    def prepare(self, image: Image.Image | Resized) -> Prepared:
        """Resize one image, once for all steps.

        Raises:
            ImageUnsuitable: The model cannot take this image.
        """
        return self._scorers[0].prepare(image)

    def score(self, prepared: Sequence[Prepared]) -> list[Reading]:
        """Read the steps: in one pass, or in one forward per step over the images that reach it.

        Returns:
            One reading per image, in their order.
        """
        paths = [_Path(image=image) for image in prepared]
        if self._together is not None:
            for step, readings in zip(self._question.steps, self._together.score(prepared), strict=True):
                for path, reading in zip(paths, readings, strict=True):
                    path.take(step, reading)
            return [path.reading(self._question, behind=()) for path in paths]
        active = paths
        for step, scorer in zip(self._question.steps, self._scorers, strict=True):
            if not active:
                break
            for path, reading in zip(active, scorer.score([path.image for path in active]), strict=True):
                path.take(step, reading)
            active = [path for path in active if path.reach >= math.log(FLOOR)]
        return [path.reading(self._question, behind=self._behind[path.n_steps]) for path in paths]


@dataclass(kw_only=True, eq=False)
class _Path:
    """The steps of one image so far. reach: log-probability of reaching the next one."""

    image: Prepared
    reach: float = 0.0
    mass: float = 1.0
    n_steps: int = 0
    ends: dict[str, list[float]] = field(default_factory=dict)  # label -> log-probabilities of the paths to it

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
        """Return log p of these labels together, with all of `reach` for labels behind a step that was not read."""
        found = [path for label in labels for path in self.ends.get(label, ())]
        return logsumexp([*sorted(found), *([self.reach] if set(labels) & set(behind) else [])])


def _labels(steps: Sequence[Step]) -> frozenset[str]:
    """Return the labels that these steps can still lead to."""
    return frozenset(to for step in steps for _, to in step.answers if to != NEXT)
