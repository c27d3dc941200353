"""Figures of experiments, against scikit-learn, and their paired intervals."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from scanfleet.models.adapters.metrics import calibration_error
from scanfleet.worker.experiments.figures import Bootstrap, Truth, confusion, margins, statistics

N = 200
rng = np.random.default_rng(3)
LABELS = rng.integers(0, 3, N)
TRUTH = Truth(labels=LABELS, clusters=np.arange(N) // 2, flags=np.array([True, False, False]))
ODDS = np.round(rng.normal(size=(N, 3)) + 1.5 * np.eye(3)[LABELS], 1)  # rounded: equal margins occur
WEIGHTS = rng.integers(0, 3, N)


def test_ranking_figures_are_those_of_scikit_learn_with_weights_and_ties() -> None:
    found, odds = statistics(TRUTH), margins(ODDS, TRUTH.flags)
    for name, reference in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        expected = reference(TRUTH.positive, odds, sample_weight=WEIGHTS)
        assert found[name](ODDS, WEIGHTS) == pytest.approx(expected)


def test_calibration_error_is_that_of_adapters() -> None:
    odds = rng.normal(size=(N, 3))
    p = 1 / (1 + np.exp(-margins(odds, TRUTH.flags)))
    expected = calibration_error(p.tolist(), TRUTH.positive.tolist())
    assert statistics(TRUTH)["ece"](odds, np.ones(N, int)) == pytest.approx(expected)


def test_a_difference_is_of_the_same_images() -> None:
    boot, accuracy = Bootstrap(TRUTH), statistics(TRUTH)["accuracy"]
    assert boot.interval([[ODDS], [ODDS]], accuracy) == {"value": 0.0, "low": 0.0, "high": 0.0}
    alone = boot.interval([[ODDS]], accuracy)
    assert alone["low"] < alone["value"] < alone["high"]


def test_whole_clusters_are_drawn() -> None:
    for weights in Bootstrap(TRUTH, samples=5).weights:
        assert (weights[::2] == weights[1::2]).all()


def test_seeds_widen_the_interval() -> None:
    accuracy = statistics(TRUTH)["accuracy"]
    seeds = [ODDS, -ODDS]
    found = Bootstrap(TRUTH).interval([seeds], accuracy)
    one = Bootstrap(TRUTH).interval([[ODDS]], accuracy)
    assert found["high"] - found["low"] > 2 * (one["high"] - one["low"])


def test_a_figure_without_positives_is_unknown() -> None:
    none = Truth(labels=np.ones(N, int), clusters=np.arange(N), flags=TRUTH.flags)
    assert Bootstrap(none).interval([[ODDS]], statistics(none)["recall"])["value"] is None


def test_rows_of_the_confusion_are_the_truth() -> None:
    answers = np.eye(3)[(LABELS + 1) % 3]
    table = confusion([answers, answers], TRUTH)
    assert table[0][1] == 2 * (LABELS == 0).sum()
    assert sum(map(sum, table)) == 2 * N
