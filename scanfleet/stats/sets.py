"""Quality of answers that are sets of classes: an image may show several. Pure; keeps one margin an image and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from scanfleet.stats.proportions import Proportion


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class. ap: average precision of its margins; None: no image shows the class, or no margin is known."""

    label: str
    true: int  # shown and answered
    wrong: int  # answered and not shown
    missed: int  # shown and not answered
    ap: float | None

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None: the class is neither shown nor answered."""
        whole = 2 * self.true + self.wrong + self.missed
        return 2 * self.true / whole if whole else None


@dataclass(frozen=True, kw_only=True)
class SetFigures:
    """All classes. exact: images whose whole set is right (subset accuracy)."""

    exact: Proportion
    classes: tuple[ClassFigures, ...]

    @property
    def micro_f1(self) -> float | None:
        """F1 of all answers together, in which a frequent class counts more."""
        true, wrong, missed = (
            sum(counts) for counts in zip(*((one.true, one.wrong, one.missed) for one in self.classes), strict=True)
        )
        return ClassFigures(label="", true=true, wrong=wrong, missed=missed, ap=None).f1

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the classes that have one."""
        return _mean([one.f1 for one in self.classes])

    @property
    def mean_ap(self) -> float | None:
        """Mean average precision of the classes that have one."""
        return _mean([one.ap for one in self.classes])


class SetAgreement:
    """Compares sets of classes with the truth, image by image."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._counts = {label: [0, 0, 0] for label in labels}  # true, wrong, missed
        self._margins: dict[str, list[tuple[float, bool]]] = {label: [] for label in labels}
        self._n = self._n_exact = 0

    def add(self, truth: AbstractSet[str], answer: AbstractSet[str], margins: Mapping[str, float]) -> None:
        """Count one image. margins: by class, the higher the more likely; a class may lack one."""
        self._n += 1
        self._n_exact += truth == answer
        for label in self._labels:
            shown, answered = label in truth, label in answer
            for place, holds in enumerate((shown and answered, answered and not shown, shown and not answered)):
                self._counts[label][place] += holds
            if label in margins:
                self._margins[label].append((margins[label], shown))

    def figures(self) -> SetFigures:
        """Return the figures of all images so far."""
        classes = tuple(
            ClassFigures(
                label=label,
                true=self._counts[label][0],
                wrong=self._counts[label][1],
                missed=self._counts[label][2],
                ap=average_precision(self._margins[label]),
            )
            for label in self._labels
        )
        return SetFigures(exact=Proportion(k=self._n_exact, n=self._n), classes=classes)


def average_precision(scored: Sequence[tuple[float, bool]]) -> float | None:
    """Return the mean precision at each positive, as scikit-learn defines it; equal margins are one step.

    scored: (margin, whether positive). None: there is no positive.
    """
    n_positive = sum(positive for _, positive in scored)
    if not n_positive:
        return None
    total, n_seen, n_true, n_counted = 0.0, 0, 0, 0
    ranked = sorted(scored, key=lambda one: -one[0])
    for place, (margin, positive) in enumerate(ranked):
        n_seen, n_true = n_seen + 1, n_true + positive
        if place + 1 == len(ranked) or ranked[place + 1][0] != margin:
            total += (n_true - n_counted) * n_true / n_seen
            n_counted = n_true
    return total / n_positive


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
