"""Two scorers on the same image files: the inputs of the gate, and its report for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.promotion import Facts, GateReport
from scanfleet.models.training.data.types import Example
from scanfleet.worker.evaluation.calibrate import calibrated_from
from scanfleet.worker.evaluation.compare import Candidate, GoldenSet, compare, pair, size_class
from scanfleet.worker.evaluation.latency import measure_latency
from scanfleet.worker.evaluation.plots import HTML, PNG, write_report
from scanfleet.worker.evaluation.readings import read_images
from tests.unit.worker.evaluation.stub_scorers import QUESTION, RedScorer, example

UNMET = {"target": 0.9, "confidence": 0.95, "threshold": None, "achieved": 1.0, "trials": 3, "failures": 0}
CALIBRATOR = Calibrator(a=1.0, b=0.0, n=100, prevalence=0.5)


def candidate(margin_of: Callable[[int], float], *, learnt: bool = True, name: str = "adapter 1") -> Candidate:
    return Candidate(name=name, scorer=RedScorer(margin_of), calibrator=CALIBRATOR, learnt=learnt)


def good(red: int) -> float:
    return (red - 100.5) / 20


def blind(red: int) -> float:
    """Wrong on every third image."""
    return -good(red) if red % 3 == 0 else good(red)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("golden")
    return [example(folder, f"k{red}", red=red, yes=red > 100, side=4 + 16 * (red % 2)) for red in range(40, 160)]


def run(golden: list[Example], before: Candidate, after: Candidate, **more: object) -> GateReport:
    given = more.pop("golden_set", None) or GoldenSet(examples=golden)
    return compare(question=QUESTION, golden=given, champion=before, challenger=after, **more)


class TestVerdict:
    def test_better_margins_on_the_same_files_are_promoted(self, golden: list[Example]) -> None:
        report = run(golden, candidate(blind), candidate(good, name="adapter 2"), shadow=golden)
        assert report.verdict == "promote", report.lines()
        assert report.n_golden == 120
        assert (report.champion, report.challenger) == ("adapter 1", "adapter 2")

    def test_worse_margins_are_rejected(self, golden: list[Example]) -> None:
        assert run(golden, candidate(good), candidate(blind)).verdict == "reject"

    def test_facts_reach_the_gate(self, golden: list[Example]) -> None:
        report = run(golden, candidate(blind), candidate(good), facts=Facts(train_keys=frozenset({"k41"})))
        assert report.reason.startswith("G0")

    def test_no_golden_image_is_held(self) -> None:
        assert run([], candidate(blind), candidate(good)).verdict == "hold"


class TestPairing:
    def test_an_image_that_neither_can_read_is_left_out(self, golden: list[Example], tmp_path: Path) -> None:
        thin = example(tmp_path, "thin", red=150, yes=True, blue=255)
        report = run([*golden, thin], candidate(blind), candidate(good))
        assert report.n_golden == 120
        assert report.figures["left_out"] == {"golden": 1, "shadow": 0}
        assert report.verdict == "promote"

    def test_an_image_that_only_the_challenger_fails_to_score_rejects(self, golden: list[Example]) -> None:
        report = run(golden, candidate(blind), candidate(lambda red: math.nan if red == 50 else good(red)))
        assert report.verdict == "reject"
        assert "1 golden image" in report.reason

    def test_slices_are_size_and_what_was_given(self, golden: list[Example]) -> None:
        sources = {one.key: "s3://a" if i < 60 else "s3://b" for i, one in enumerate(golden)}
        given = GoldenSet(examples=golden, slices={"source": sources})
        report = run(golden, candidate(blind), candidate(good), golden_set=given)
        names = set(next(result for result in report.results if result.gate == "G3").figures)
        assert {"source=s3://a", "size=within the pixel budget", "size=over 4 times the pixel budget"} <= names

    def test_only_images_labelled_since_count_as_recent(self, golden: list[Example]) -> None:
        given = GoldenSet(examples=golden, recent={one.key for one in golden[:110]})
        report = run(golden, candidate(blind), candidate(good), golden_set=given)
        assert next(result for result in report.results if result.gate == "G2").figures["n"] == 110

    @pytest.mark.parametrize(
        ("size", "name"), [((8, 8), "within"), ((16, 16), "up to 4"), ((17, 16), "over 4"), ((64, 1), "within")]
    )
    def test_size_classes_count_what_the_model_cannot_see(self, size: tuple[int, int], name: str) -> None:
        assert size_class(size, QUESTION).startswith(name)


class TestShadow:
    def shadow(self, golden: list[Example], before: Candidate, after: Candidate) -> dict[str, object]:
        report = run(golden, before, after, shadow=golden)
        return dict(next(result for result in report.results if result.gate == "G6").figures)

    def test_the_same_confidence_on_another_scale_is_no_drift(self, golden: list[Example]) -> None:
        louder = Candidate(
            name="louder",
            scorer=RedScorer(lambda red: 7 * good(red)),
            calibrator=Calibrator(a=1 / 7, b=0.0, n=9, prevalence=0.5),
        )
        found = self.shadow(golden, candidate(good), louder)
        assert found["psi"] == pytest.approx(0.0, abs=0.01)
        assert found["ratio"] == pytest.approx(1.0)

    def test_another_distribution_is(self, golden: list[Example]) -> None:
        found = self.shadow(golden, candidate(good), candidate(lambda red: good(red) + 2))
        assert isinstance(found["psi"], float)
        assert found["psi"] > 0.2
        assert found["flags"] > found["champion_flags"]

    def test_without_unlabelled_images_latency_is_taken_on_golden_ones(self, golden: list[Example]) -> None:
        report = run(golden, candidate(blind), candidate(good))
        figures = next(result for result in report.results if result.gate == "G6").figures
        assert figures["images"] == 0
        assert figures["rounds"] == 9

    def test_each_model_is_warm_before_its_clock_starts(self, golden: list[Example]) -> None:
        before, after = RedScorer(good), RedScorer(good)
        assert len(measure_latency(before, after, golden)) == 9
        assert before.packs == after.packs == [1, 32] * 9


class TestCrossFitted:
    """A calibrator that was fitted on golden images does not judge those."""

    def log_odds(self, golden: list[Example], challenger: Candidate) -> dict[str, float]:
        reads = [read_images(each.scorer, golden) for each in (candidate(blind), challenger)]
        paired = pair(QUESTION, GoldenSet(examples=golden), candidate(blind), challenger, *reads)
        assert paired.champion.cross_fitted is None  # it keeps its own
        found = paired.challenger.log_odds()
        assert found is not None
        return dict(zip(paired.keys, found.tolist(), strict=True))

    def test_an_image_and_its_look_alikes_have_no_part_in_how_they_are_judged(self, golden: list[Example]) -> None:
        golden = [replace(each, cluster=f"c{at // 2}") for at, each in enumerate(golden)]
        fitted = replace(candidate(good), cross_fitted=True)
        before = self.log_odds(golden, fitted)
        turned = [replace(each, label=1 - each.label) if each.key == "k60" else each for each in golden]
        after = self.log_odds(turned, fitted)
        same = {key for key in before if before[key] == after[key]}
        assert {"k60", "k61"} <= same  # of one cluster
        assert 10 <= len(same) < 60  # a fold of five, whole clusters

    def test_the_calibrator_on_the_card_is_not_what_is_judged(self, golden: list[Example]) -> None:
        one_sided = replace(candidate(good, name="adapter 2"), calibrator=Calibrator(a=1, b=99, n=9, prevalence=0.5))
        assert run(golden, candidate(blind), one_sided).verdict == "reject"
        assert run(golden, candidate(blind), replace(one_sided, cross_fitted=True)).verdict == "promote"

    def test_where_a_part_allows_no_calibrator_it_holds(self, golden: list[Example]) -> None:
        few = [next(each for each in golden if each.label == label) for label in (0, 1)]
        report = run(few, candidate(blind), replace(candidate(good), cross_fitted=True))
        assert "no calibrator: too few labelled images" in " ".join(report.lines())
        assert report.verdict == "hold"


class TestCandidates:
    def test_the_base_alone_has_its_own_calibrator(self) -> None:
        scorer = RedScorer(good)
        found = calibrated_from([], [], QUESTION, 0.9, 0.9)
        base = Candidate.of_base(scorer, found)
        assert (base.name, base.learnt, base.misfit) == ("base alone", False, "no labelled images")

    def test_an_adapter_uses_the_certificates_of_its_card(self, golden: list[Example]) -> None:
        found = calibrated_from([], [], QUESTION, 0.95, 0.9)
        card = AdapterCard(
            name="two",
            question=QUESTION,
            base_model="base",
            base_revision="r",
            calibrator=CALIBRATOR,
            thresholds=found.thresholds,
            metrics=found.metrics,
        )
        after = Candidate.of_card("adapter 2", RedScorer(good), card)
        assert (after.recall, after.precision, after.certified_on) == (found.recall, found.precision, 0)
        (note,) = run(golden, candidate(blind), after).notes
        assert all(datum in note for datum in ("precision 0.9", "30 flagged", "recall 0.95", "59 positives"))

    @pytest.mark.parametrize(
        "stored",
        [None, "yes", {"target": 0.9}, {**UNMET, "target": "high"}, {**UNMET, "target": 1}, {**UNMET, "on_labels": 0}],
    )
    def test_a_card_from_elsewhere_may_hold_anything(self, stored: object) -> None:
        card = AdapterCard(
            name="x", question=QUESTION, base_model="base", base_revision="r", metrics={"recall_certificate": stored}
        )
        assert Candidate.of_card("adapter 2", RedScorer(good), card).recall is None

    def test_certificates_of_cards_without_a_prevalence_are_read(self) -> None:
        held = {"recall_certificate": UNMET, "precision_certificate": {**UNMET, "prevalence": 0.02, "on_labels": 0.99}}
        card = AdapterCard(name="x", question=QUESTION, base_model="base", base_revision="r", metrics=held)
        after = Candidate.of_card("adapter 2", RedScorer(good), card)
        assert after.recall is not None
        assert after.recall.prevalence is None
        assert after.precision is not None
        assert (after.precision.prevalence, after.precision.on_labels) == (0.02, 0.99)

    def test_a_flag_threshold_for_more_positives_than_the_archive_has_does_not_count(self) -> None:
        held = Thresholds(review=-1.0, flag=1.0)
        card = AdapterCard(
            name="x", question=QUESTION, base_model="base", base_revision="r", calibrator=CALIBRATOR, thresholds=held
        )
        for prevalence, flag in ((None, 1.0), (0.5, 1.0), (0.6, 1.0), (0.02, None)):
            found = Candidate.of_card("adapter 2", RedScorer(good), card, prevalence=prevalence)
            assert found.thresholds == Thresholds(review=-1.0, flag=flag)


class TestReport:
    def test_a_stored_report_is_drawn_with_every_flip(self, golden: list[Example], tmp_path: Path) -> None:
        after = candidate(lambda red: -5.0 if red in (121, 122) else good(red), name="<b>adapter</b>")
        gate = run(golden, candidate(blind), after)
        history = [{"epoch": 1, "loss": 0.7, "validation": None}, {"epoch": 2, "loss": 0.3, "validation": 0.4}]
        write_report(tmp_path, {"gate": gate.record(), "fit": {"history": history}}, title="q, training 3")
        page = (tmp_path / HTML).read_text()
        assert (tmp_path / PNG).read_bytes().startswith(b"\x89PNG")
        flips = next(result for result in gate.results if result.gate == "G5").figures["flips"]
        assert flips
        assert all(flip["key"] in page for flip in flips)
        assert "<b>adapter" not in page
        assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")

    def test_a_report_without_golden_images_or_history_is_drawn_too(self, tmp_path: Path) -> None:
        gate = run([], candidate(blind), candidate(good))
        write_report(tmp_path, {"gate": gate.record()}, title="empty")
        assert "no golden images" in (tmp_path / HTML).read_text()


def test_margins_keep_the_order_of_the_images(golden: list[Example]) -> None:
    seen = [good(int(one.key[1:])) for one in golden]
    report = run(golden, candidate(blind), candidate(good))
    edges = report.figures["curves"]["challenger"]["margins"]["edges"]
    assert (edges[0], edges[-1]) == (min(seen), max(seen))
    assert np.isclose(report.figures["challenger"]["accuracy"], 1.0)
