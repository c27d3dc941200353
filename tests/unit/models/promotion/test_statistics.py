"""The statistics under the gate, against scipy, scikit-learn, published figures and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from scanfleet.models.promotion.bootstrap import Ranking, average_precision, bounded, recall_at, weights
from scanfleet.models.promotion.significance import at_least, holm, images_needed, loss_p_value, mcnemar, visible_gain
from scanfleet.models.promotion.unlabelled import median_bound


class TestExactTests:
    @pytest.mark.parametrize(("won", "lost"), [(0, 0), (6, 0), (0, 6), (15, 5), (30, 29), (200, 150)])
    def test_mcnemar_is_the_two_sided_sign_test(self, won: int, lost: int) -> None:
        expected = binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0
        assert mcnemar(won, lost) == pytest.approx(expected)

    def test_the_one_sided_test_looks_for_losses(self) -> None:
        assert loss_p_value(2, 10) == pytest.approx(binomtest(10, 12, 0.5, alternative="greater").pvalue)
        assert loss_p_value(10, 2) > 0.9

    def test_upper_tails_are_exact(self) -> None:
        assert at_least(9, 400, 0.01) == pytest.approx(binomtest(9, 400, 0.01, alternative="greater").pvalue)
        assert at_least(0, 10, 0.01) == 1.0

    def test_holm_by_hand(self) -> None:
        assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
        assert holm([0.9, 0.6]) == [1.0, 1.0]
        assert holm([]) == []


class TestPower:
    def test_six_percent_discordance_and_two_points_take_1175(self) -> None:
        assert images_needed(0.06, 0.02) == 1175

    def test_the_number_gives_that_power(self) -> None:
        rng = np.random.default_rng(0)
        n = images_needed(0.2, 0.06)
        drawn = rng.multinomial(n, [0.13, 0.07, 0.80], size=2000)
        seen = np.mean([mcnemar(int(won), int(lost)) < 0.05 for won, lost, _ in drawn])
        assert seen == pytest.approx(0.8, abs=0.04)  # the exact test is a little stricter than the formula

    def test_the_smallest_visible_gain_turns_it_round(self) -> None:
        assert visible_gain(0.06, 1175) == pytest.approx(0.02)
        assert visible_gain(0.06, 1) is None


class TestBootstrap:
    def test_average_precision_is_scikit_learns_ties_and_weights_included(self) -> None:
        rng = np.random.default_rng(1)
        for ties in (False, True):
            positive = rng.random(200) < 0.3
            margins = positive + rng.normal(size=200)
            margins = np.round(margins, 1) if ties else margins
            weight = rng.integers(0, 4, size=(3, 200)).astype(np.float32)
            found = average_precision(*Ranking(margins, positive).curve(weight))
            expected = [average_precision_score(positive, margins, sample_weight=row) for row in weight]
            assert found == pytest.approx(expected, abs=1e-6)

    def test_recall_at_a_rate_of_false_alarms(self) -> None:
        margins = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
        positive = np.array([True, False, True, False, True])
        curve = Ranking(margins, positive).curve(np.ones((1, 5)))
        for allowed, recall in ((0.0, 1 / 3), (0.5, 1 / 3), (1.0, 2 / 3), (2.0, 1.0), (9.0, 1.0)):
            assert recall_at(*curve, np.array([allowed])) == pytest.approx(recall)

    def test_between_two_thresholds_recall_lies_on_the_line(self) -> None:
        curve = Ranking(np.array([5.0, 4.0, 4.0]), np.array([True, False, True])).curve(np.ones((1, 3)))
        assert recall_at(*curve, np.array([0.5])) == pytest.approx(0.75)

    def test_lookalikes_are_sampled_together(self) -> None:
        (block,) = weights(["a", "b", "a", "c"], resamples=50, seed=0)
        assert block.shape == (50, 4)
        assert (block[:, 0] == block[:, 2]).all()
        assert (block[:, [0, 1, 3]].sum(axis=1) == 3).all()

    def test_lookalikes_widen_the_bounds(self) -> None:
        change = np.repeat(np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=50), 8)
        names = [f"c{i // 8}" for i in range(400)]
        widths = []
        for clusters in (names, [f"i{i}" for i in range(400)]):
            draws = np.concatenate([w @ change / w.sum(axis=1) for w in weights(clusters, resamples=1000, seed=0)])
            found = bounded(float(change.mean()), draws, level=0.05)
            widths.append(found.high - found.low)
        assert widths[0] > 2 * widths[1]

    def test_the_lower_bound_holds_in_about_95_of_100_samples(self) -> None:
        rng = np.random.default_rng(3)
        held = 0
        for trial in range(200):
            change = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=150)
            draws = np.concatenate(
                [w @ change / w.sum(axis=1) for w in weights([str(i) for i in range(150)], resamples=300, seed=trial)]
            )
            held += bounded(float(change.mean()), draws, level=0.05).low <= 0.1
        assert 0.90 <= held / 200 <= 0.99


class TestMedianBound:
    def test_five_rounds_are_the_least(self) -> None:
        assert median_bound([1.0] * 4, level=0.05) is None
        assert median_bound([1.0, 2.0, 3.0, 4.0, 5.0], level=0.05) == 1.0
        assert median_bound([float(i) for i in range(1, 10)], level=0.05) == 2.0
