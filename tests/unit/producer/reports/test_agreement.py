"""Figures against a known truth."""

import pytest

from scanfleet.producer.reports.agreement import Agreement
from scanfleet.stats.proportions import wilson

LABELS = ("overlay", "natural", "none")


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_between_none_and_all() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(7, 7)[1] == 1.0


def make() -> Agreement:
    found = Agreement(LABELS, ("overlay",))
    for truth, label, decision, n in (
        ("overlay", "overlay", "flag", 6),
        ("overlay", "overlay", "review", 1),
        ("overlay", "none", "clear", 2),
        ("overlay", None, None, 1),
        ("natural", "overlay", "flag", 3),
        ("none", "none", "clear", 8),
        ("none", None, None, 2),
        ("", "none", "clear", 4),
        (None, "none", "clear", 1),
    ):
        for _ in range(n):
            found.add(truth, label=label, decision=decision)
    return found


def test_rates_count_answered_images_only_and_say_what_is_missing() -> None:
    found = make()
    assert (found.precision("flag").k, found.precision("flag").n) == (6, 9)
    assert (found.recall("flag").k, found.recall("flag").n) == (6, 9)
    assert (found.recall("flag", "review").k, found.recall("flag", "review").n) == (7, 9)
    assert (found.accuracy().k, found.accuracy().n) == (15, 20)
    assert (found.n_unanswered, found.n_unanswered_flags, found.n_unknown) == (3, 1, 5)


def test_the_confusion_matrix_holds_every_answered_image() -> None:
    confusion = make().confusion()
    assert confusion["overlay", "none"] == 2
    assert confusion["natural", "overlay"] == 3
    assert sum(confusion.values()) == 20


def test_without_images_a_rate_is_undefined() -> None:
    assert Agreement(LABELS, ("overlay",)).recall("flag").value is None
