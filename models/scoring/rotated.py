"""A base model alone, asked with its menu turned, so that a letter's place does not decide.

    logits = mean over the orders of log softmax(label logits)     each order one prefill

A model that was not trained for the question leans to one letter, whatever stands behind it. In k rotations of k labels
each label stands once at each place, so that what belongs to the place is the same for all labels. A rotation leaves
the neighbours of a label as they are: orders that are not rotations of each other may still differ.

The other known means, to subtract the logits of a blank image (contextual calibration, arXiv 2102.09690), is not used:
a blank image holds no text and no knife, so a model that can see says so, and the subtraction takes the right answer
away (docs/benchmarks.md, Menu order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_letters
from typing import TYPE_CHECKING

from scanfleet.models.families import Row
from scanfleet.models.scoring.margin import logsumexp, margin_of
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.scoring.together import Together
from scanfleet.models.types import ModelIdentity, Question, Reading

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel

MOST_ORDERS = 5  # prefills an image; with more labels the turns are as far apart as they can be


class RotatedScorer(PrefillScorer):
    """A PrefillScorer that reads every image once per rotation of the menu.

    Prompt, attention and hidden states are those of the question's own order.

    Args:
        base: The loaded base model.
        question: A question without steps.
        identity: Of the base alone.
    """

    def __init__(self, *, base: BaseModel, question: Question, identity: ModelIdentity) -> None:
        super().__init__(base=base, question=question, identity=identity)
        self._orders = [
            PrefillScorer(base=base, question=replace(question, labels=order), identity=identity)
            for order in rotations(question)
        ]

    @property
    def parts(self) -> Sequence[PrefillScorer]:
        self._orders[0].record_layers = self.record_layers
        return self._orders

    def combined(self, readings: Sequence[Sequence[Reading]]) -> list[Reading]:
        """Return the mean of the orders; `logits` are normalised over the labels."""
        orders = [scorer.question.labels for scorer in self._orders]
        return [self._mean(orders, row) for row in zip(*readings, strict=True)]

    def score(self, prepared: Sequence[Row]) -> list[Reading]:
        """Read the images once and the menu in every order.

        Returns:
            One reading per row, in their order; none for no rows. `logits` are normalised over the labels, `mass` is
            the mean of all orders.
        """
        (found,) = Together(base=self._base, scorers=[self]).score(prepared) if prepared else ([],)
        return found

    def _mean(self, orders: Sequence[Sequence[str]], row: Sequence[Reading]) -> Reading:
        shares = [
            dict(zip(order, (logit - logsumexp(reading.logits) for logit in reading.logits), strict=True))
            for order, reading in zip(orders, row, strict=True)
        ]
        labels, n = self.question.labels, len(row)
        logits = tuple(sum(share[label] for share in shares) / n for label in labels)
        margin = margin_of(logits, labels, self.question.flags)
        return replace(row[0], margin=margin, logits=logits, mass=sum(reading.mass for reading in row) / n)


def rotations(question: Question) -> list[tuple[str, ...]]:
    """Return the orders in which the labels are asked, the question's own first.

    One alone where a label is itself a letter of the menu: turned, "B) A" would ask for two letters at once.
    """
    labels = question.labels
    if any((question.descriptions.get(label) or label).strip() in set(ascii_letters) for label in labels):
        return [labels]
    n = min(len(labels), MOST_ORDERS)
    turns = [place * len(labels) // n for place in range(n)]
    return [labels[turn:] + labels[:turn] for turn in turns]
