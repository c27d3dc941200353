"""Measures the agreement of verdicts with the true labels. Pure: counts in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scanfleet.stats.proportions import Proportion


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One cell: true label, answer and decision; the last two are None for an image without a verdict."""

    truth: str
    label: str | None
    decision: str | None


class Agreement:
    """Counts images in constant memory."""

    def __init__(self, labels: tuple[str, ...], flags: tuple[str, ...]) -> None:
        self.labels = labels
        self.flags = flags
        self.cells: Counter[Answered] = Counter()
        self.n_unknown = 0  # images whose truth is not a label of the check, or missing

    def add(self, truth: object, *, label: str | None, decision: str | None, n: int = 1) -> None:
        if truth in self.labels:
            self.cells[Answered(truth=str(truth), label=label, decision=decision)] += n
        else:
            self.n_unknown += n

    @property
    def n_known(self) -> int:
        """The number of images with a known truth, answered or not."""
        return self.cells.total()

    @property
    def n_unanswered(self) -> int:
        """The number of images with a known truth and no verdict, which no figure counts."""
        return self._sum(lambda cell: cell.label is None)

    @property
    def n_unanswered_flags(self) -> int:
        """The number of those that should have been flagged."""
        return self._sum(lambda cell: cell.label is None and cell.truth in self.flags)

    def confusion(self) -> Mapping[tuple[str, str], int]:
        """Return (truth, label) -> images."""
        table: Counter[tuple[str, str]] = Counter()
        for cell, n in self.cells.items():
            if cell.label is not None:
                table[cell.truth, cell.label] += n
        return table

    def accuracy(self) -> Proportion:
        right = self._sum(lambda cell: cell.label == cell.truth)
        return Proportion(k=right, n=self._sum(lambda cell: cell.label is not None))

    def precision(self, *decisions: str) -> Proportion:
        """Return the share of true flags among the images with these decisions."""
        decided = self._sum(lambda cell: cell.decision in decisions)
        return Proportion(k=self._true_flags(decisions), n=decided)

    def recall(self, *decisions: str) -> Proportion:
        """Return the share with these decisions among the answered images that should be flagged."""
        positives = self._sum(lambda cell: cell.truth in self.flags and cell.label is not None)
        return Proportion(k=self._true_flags(decisions), n=positives)

    def _true_flags(self, decisions: tuple[str, ...]) -> int:
        return self._sum(lambda cell: cell.truth in self.flags and cell.decision in decisions)

    def _sum(self, wanted: Callable[[Answered], bool]) -> int:
        return sum(n for cell, n in self.cells.items() if wanted(cell))
