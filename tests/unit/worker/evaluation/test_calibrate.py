"""From a scorer and two labelled splits to calibrator, thresholds and figures; fits that fail."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from scanfleet.models.adapters.canary import try_canary
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.evaluation import readings
from scanfleet.worker.evaluation.calibrate import (
    FOLDS,
    SHARED,
    Measured,
    calibrated,
    calibrated_from,
    cross_fitted,
    fit,
)
from scanfleet.worker.evaluation.canary import choose, write_canary
from scanfleet.worker.evaluation.readings import read_images
from tests.unit.worker.evaluation.stub_scorers import QUESTION, RedScorer, example


def measured(n: int, skill: float, seed: int) -> list[Measured]:
    rng = np.random.default_rng(seed)
    events = rng.random(n) < 0.4
    margins = np.where(events, skill, -skill) + rng.normal(size=n)
    return [
        Measured(key=f"{seed}-{i}", margin=float(m), event=bool(e), right=bool((m >= 0) == e))
        for i, (m, e) in enumerate(zip(margins, events, strict=True))
    ]


def flipped(images: list[Measured]) -> list[Measured]:
    return [Measured(key=one.key, margin=-one.margin, event=one.event, right=not one.right) for one in images]


class TestFigures:
    def test_all_images_fit_the_calibrator_and_each_is_judged_by_one_that_did_not_use_it(self) -> None:
        first, second = measured(200, 1.5, 1), measured(150, 1.5, 2)
        found = calibrated_from(first, second, QUESTION, 0.95, 0.95)
        both = first + second
        assert found.calibrator == fit(both)[0]
        margins, events = [one.margin for one in both], [one.event for one in both]
        assert found.metrics["n"] == found.metrics["calibration_images"] == 350
        assert found.metrics["auroc"] == pytest.approx(roc_auc_score(events, margins))
        assert found.metrics["average_precision"] == pytest.approx(average_precision_score(events, margins))
        own = cross_fitted(both)
        squares = [(one.probability(m) - e) ** 2 for one, m, e in zip(own, margins, events, strict=True) if one]
        assert len(squares) == 350
        assert found.metrics["brier"] == pytest.approx(np.mean(squares))
        assert found.metrics["prevalence"]["value"] == pytest.approx(np.mean(events))
        assert found.metrics["recall"]["low"] < found.metrics["recall"]["value"] < found.metrics["recall"]["high"]
        json.dumps(found.metrics, allow_nan=False)

    def test_no_image_and_none_like_it_is_in_the_fit_that_judges_it(self) -> None:
        images = [replace(one, cluster=f"c{at // 7}") for at, one in enumerate(measured(140, 1.0, 3))]
        before = cross_fitted(images)
        for cluster in ("c0", "c11"):
            wrong = [replace(one, event=not one.event) if one.cluster == cluster else one for one in images]
            changed = [one.cluster for one, a, b in zip(images, before, cross_fitted(wrong), strict=True) if a != b]
            assert changed
            assert cluster not in changed
        folds = {one.a for one in before if one is not None}
        assert len(folds) == FOLDS

    def test_folds_without_a_fit_leave_the_quality_of_probabilities_out(self) -> None:
        few = [one for one in measured(60, 1.5, 1) if one.event][:1] + [
            one for one in measured(60, 1.5, 1) if not one.event
        ]
        found = calibrated_from(few, [], QUESTION, 0.95, 0.95)
        assert found.calibrator is not None
        assert "brier" not in found.metrics
        assert found.metrics["label_accuracy"]["n"] == len(few)

    def test_certificates_use_both_splits(self) -> None:
        first, second = measured(120, 3.0, 1), measured(120, 3.0, 2)
        found = calibrated_from(first, second, QUESTION, 0.95, 0.95)
        assert found.recall is not None
        assert found.recall.met
        assert found.recall.trials == sum(one.event for one in first + second)
        assert found.metrics["certified_on"] == 240
        alone = calibrated_from(first, [], QUESTION, 0.95, 0.95)
        assert alone.recall is not None
        assert not alone.recall.met  # too few positives in one split for the same target

    def test_a_target_that_is_not_certified_is_unmet(self) -> None:
        found = calibrated_from(measured(30, 0.5, 1), measured(30, 0.5, 2), QUESTION, 0.95, 0.95)
        assert found.thresholds is not None
        assert (found.thresholds.review, found.thresholds.flag) == (None, None)
        assert found.metrics["recall_certificate"]["met"] is False
        assert found.metrics["precision_certificate"]["met"] is False

    def test_a_plain_classification_has_a_calibrator_for_its_label_and_no_thresholds(self) -> None:
        plain = Question(name="kind", prompt="Which?", labels=("a", "b"), flags=frozenset())
        found = calibrated_from(measured(200, 1.0, 1), measured(200, 1.0, 2), plain, 0.95, 0.95)
        assert found.calibrator is not None
        assert (found.thresholds, found.recall, found.precision) == (None, None, None)


class TestPromises:
    def test_look_alikes_are_one_witness(self) -> None:
        def grouped(n: int) -> list[Measured]:
            return [replace(one, cluster=f"{n}-{at // 5}") for at, one in enumerate(measured(100, 3.0, n))]

        found = calibrated_from(grouped(1), grouped(2), QUESTION, 0.95, 0.95)
        assert found.recall is not None
        assert not found.recall.met
        assert found.metrics["clusters"] == 40
        assert found.recall.trials <= 40

    def test_prevalence_moves_the_flag_threshold_and_nothing_else(self) -> None:
        splits = measured(300, 2.0, 1), measured(300, 2.0, 2)
        plain = calibrated_from(*splits, QUESTION, 0.9, 0.9)
        less = calibrated_from(*splits, QUESTION, 0.9, 0.9, prevalence=0.2)
        rare = calibrated_from(*splits, QUESTION, 0.9, 0.9, prevalence=0.001)
        assert plain.calibrator == less.calibrator == rare.calibrator
        assert plain.recall == less.recall == rare.recall
        assert plain.thresholds is not None
        assert less.thresholds is not None
        assert rare.thresholds is not None
        assert plain.thresholds.flag is not None
        assert less.thresholds.flag is not None
        assert plain.thresholds.flag < less.thresholds.flag
        assert rare.thresholds.flag is None
        labels = sum(one.event for split in splits for one in split) / 600
        told = [each.metrics["precision_certificate"]["prevalence"] for each in (plain, less, rare)]
        assert told == pytest.approx([labels, 0.2, 0.001])
        certificate = less.metrics["precision_certificate"]
        assert certificate["low"] < certificate["achieved"] < certificate["high"]
        json.dumps(rare.metrics, allow_nan=False)


class TestMisfits:
    def test_higher_margins_that_do_not_mean_positive(self) -> None:
        found = calibrated_from(flipped(measured(200, 1.0, 1)), measured(100, 1.0, 2), QUESTION, 0.95, 0.95)
        assert found.calibrator is None
        assert found.misfit == found.metrics["misfit"] == "higher margins do not mean positive"

    @pytest.mark.parametrize("event", [True, False])
    def test_one_kind_of_label(self, event: bool) -> None:
        alike = [one for one in measured(100, 1.0, 1) if one.event is event]
        assert fit(alike) == (None, "one kind of label alone")

    def test_no_images(self) -> None:
        assert fit([]) == (None, "no labelled images")
        json.dumps(calibrated_from([], [], QUESTION, 0.95, 0.95).metrics, allow_nan=False)

    def test_margins_that_are_no_numbers(self) -> None:
        broken = [*measured(50, 1.0, 1), Measured(key="x", margin=math.nan, event=True, right=False)]
        for first, second in ((broken, measured(50, 1.0, 2)), (measured(50, 1.0, 2), broken)):
            found = calibrated_from(first, second, QUESTION, 0.95, 0.95)
            assert found.misfit == "margins that are no numbers"
            assert (found.calibrator, found.thresholds) == (None, None)
            json.dumps(found.metrics, allow_nan=False)


class TestScoring:
    @pytest.fixture
    def images(self, tmp_path: Path) -> list[Example]:
        """Yes from red 128 on, with every tenth image labelled wrong."""
        return [example(tmp_path, f"k{i}", red=2 * i, yes=(i >= 64) != (i % 10 == 0)) for i in range(128)]

    def test_both_splits_go_through_the_scorer_once(self, images: list[Example]) -> None:
        scorer, counts = RedScorer(lambda red: (red - 128) / 16), []
        found = calibrated(scorer, images[::2], images[1::2], QUESTION, 0.9, 0.8, watch=lambda *now: counts.append(now))
        assert found.calibrator is not None
        assert sum(scorer.packs) == scorer.prepared == 128
        assert counts[-1] == (128, 128)
        assert set(found.readings) == {one.key for one in images}
        assert found.metrics["left_out"] == 0

    def test_golden_images_that_serve_here_too_are_named(self, images: list[Example]) -> None:
        scorer = RedScorer(lambda red: (red - 128) / 16)
        found = calibrated(scorer, images[::4], images[1::4], QUESTION, 0.9, 0.8, golden=images[2::4])
        assert found.calibrator is not None
        assert (found.calibrator.n, found.metrics["certified_on"]) == (96, 96)
        assert found.metrics["split"] == SHARED

    def test_packs_stay_within_the_budget_and_windows_bound_the_memory(self, images: list[Example]) -> None:
        scorer = RedScorer(float)
        read = read_images(scorer, images, token_budget=40)
        assert max(scorer.packs) == 10
        assert [read.readings[one.key].margin for one in images] == [2.0 * i for i in range(128)]
        most = []
        scorer = RedScorer(lambda red: float(most.append(scorer.prepared) or red))
        read_images(scorer, images)
        assert most[0] == readings.WINDOW

    def test_an_unreadable_image_is_left_out_and_named(self, images: list[Example], tmp_path: Path) -> None:
        (tmp_path / "torn.png").write_bytes(images[0].path.read_bytes()[:40])
        torn = Example(key="torn", path=tmp_path / "torn.png", label=0, cluster="torn")
        thin = example(tmp_path, "thin", red=9, yes=True, blue=255)
        read = read_images(RedScorer(float), [torn, *images[:3], thin])
        assert set(read.left_out) == {"torn", "thin"}
        assert set(read.readings) == {"k0", "k1", "k2"}


class TestCanary:
    def test_labels_are_spread_and_lookalikes_left_out(self, tmp_path: Path) -> None:
        many = [example(tmp_path, f"n{i}", red=i, yes=False, cluster=f"c{i // 4}") for i in range(80)]
        few = [example(tmp_path, f"y{i}", red=i, yes=True) for i in range(5)]
        chosen = choose(many + few)
        assert choose(few + many[::-1]) == chosen
        assert len(chosen) == 16
        assert sum(one.label == 0 for one in chosen) == 5
        assert len({one.cluster for one in chosen}) == 16

    def test_the_saved_images_reproduce_the_stored_margins(self, tmp_path: Path) -> None:
        images = [example(tmp_path, f"k{i}", red=12 * i, yes=i % 2 == 0, side=20) for i in range(20)]
        scorer = RedScorer(lambda red: red / 10)
        folder = tmp_path / "adapter"
        canary = write_canary(folder, images, scorer)
        assert try_canary(canary, folder, adapter=scorer, base=RedScorer(lambda _: 0.0)).problem() is None
        with Image.open(folder / canary.images[0]) as saved:
            assert saved.size == (8, 8)  # of 20 x 20, with a budget of 64 pixels

    def test_weights_without_finite_margins_have_no_canary(self, tmp_path: Path) -> None:
        with pytest.raises(ModelInvalid, match="weights are broken"):
            write_canary(tmp_path, [example(tmp_path, "k", red=1, yes=True)], RedScorer(lambda _: math.nan))
