"""Figures of sets of classes, held against scikit-learn's."""

import random

import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from scanfleet.stats.sets import SetAgreement, average_precision

LABELS = ("knife", "gun", "saw")


@pytest.mark.filterwarnings("ignore:No positive class")
def test_they_are_those_of_scikit_learn() -> None:
    dice = random.Random(4)
    agreement, rows = SetAgreement(LABELS), []
    for _ in range(200):
        truth = {label for label in LABELS if dice.random() < 0.3}
        margins = {label: round(dice.gauss(label in truth, 1), 1) for label in LABELS}  # rounded: many are equal
        answer = {label for label in LABELS if margins[label] > 0.5}
        agreement.add(truth, answer, margins)
        rows.append((truth, answer, margins))
    figures = agreement.figures()
    true = [[label in truth for label in LABELS] for truth, _, _ in rows]
    said = [[label in answer for label in LABELS] for _, answer, _ in rows]
    margins_of = [[margins[label] for label in LABELS] for _, _, margins in rows]
    assert figures.exact.value == pytest.approx(accuracy_score(true, said))
    assert figures.micro_f1 == pytest.approx(f1_score(true, said, average="micro"))
    assert figures.macro_f1 == pytest.approx(f1_score(true, said, average="macro"))
    assert figures.mean_ap == pytest.approx(average_precision_score(true, margins_of, average="macro"))
    assert figures.exact.n == 200


def test_a_class_that_is_nowhere_has_no_figure() -> None:
    agreement = SetAgreement(LABELS)
    agreement.add({"gun"}, {"gun"}, {"gun": 1.0, "saw": 0.5})
    figures = agreement.figures()
    assert [one.f1 for one in figures.classes] == [None, 1.0, None]
    assert [one.ap for one in figures.classes] == [None, 1.0, None]
    assert (figures.macro_f1, figures.micro_f1, figures.mean_ap) == (1.0, 1.0, 1.0)


def test_without_images_nothing_is_known() -> None:
    figures = SetAgreement(LABELS).figures()
    assert (figures.exact.value, figures.micro_f1, figures.macro_f1, figures.mean_ap) == (None, None, None, None)
    assert average_precision([(1.0, False)]) is None
