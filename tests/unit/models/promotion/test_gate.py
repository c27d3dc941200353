"""The gate on margins with known properties: what it promotes, holds and rejects, and for which reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.judging.gate import Cell, one_pair
from scanfleet.models.adapters.calibration import Calibrator, Certificate, Thresholds, fit_platt
from scanfleet.models.promotion import Facts, GateReport, GateResult, Limits, Paired, Shadow, Side, judge
from scanfleet.models.promotion.bootstrap import Bounded
from scanfleet.models.promotion.conditions import g4_calibrated
from scanfleet.models.promotion.evidence import collect_evidence
from scanfleet.models.types import Question

FLAGGING = Question(name="q", prompt="Is it?", labels=("overlay", "natural", "none"), flags=frozenset({"overlay"}))
PLAIN = Question(name="kind", prompt="Which?", labels=("a", "b", "c"), flags=frozenset())
RESAMPLES = 400
SHARED = 0.8  # of the noise is that of the image, not of the model


def truth_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, n)


def model(truth: np.ndarray, skill: float, *, seed: int, name: str = "adapter", learnt: bool = True) -> Side:
    """Margins of +-skill with noise of unit variance; models of one truth share most of their noise."""
    positive, n = truth == 0, len(truth)
    common = np.random.default_rng(len(truth)).normal(size=n)
    own = np.random.default_rng(1000 + seed).normal(size=n)
    margins = np.where(positive, skill, -skill) + SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own
    return side(margins, np.where(margins >= 0, 0, 1 + (truth == 2)), platt(skill), name=name, learnt=learnt)


def platt(skill: float) -> Calibrator:
    """The true log-odds of two normal distributions of unit variance at +-skill, at a prevalence of one third."""
    if skill <= 0:
        return Calibrator(a=1e-3, b=-0.7, n=300, prevalence=1 / 3)
    return Calibrator(a=2 * skill, b=float(np.log(0.5)), n=300, prevalence=1 / 3)


def side(margins: np.ndarray, answers: np.ndarray, calibrator: Calibrator | None, **more: object) -> Side:
    fields = {"name": "adapter", "calibrator": calibrator, **more}
    return Side(margins=np.asarray(margins, float), answers=np.asarray(answers, np.int64), **fields)


def pair(truth: np.ndarray, champion: Side, challenger: Side, **more: object) -> Paired:
    n = len(truth)
    fields = {
        "question": FLAGGING,
        "keys": [f"key{i}" for i in range(n)],
        "clusters": [f"cluster{i}" for i in range(n)],
        "recent": np.ones(n, bool),
        **more,
    }
    return Paired(truth=np.asarray(truth, np.int64), champion=champion, challenger=challenger, **fields)


def rivals(n: int, before: float, after: float, *, seed: int = 0, learnt: bool = True, **more: object) -> Paired:
    truth = truth_of(n, seed)
    champion = model(truth, before, seed=2 * seed, name="adapter 1", learnt=learnt)
    return pair(truth, champion, model(truth, after, seed=2 * seed + 1, name="adapter 2"), **more)


def say(paired: Paired, shadow: Shadow | None = None, **more: object) -> GateReport:
    return judge(paired, shadow, resamples=RESAMPLES, **more)


def of(report: GateReport, gate: str) -> GateResult:
    return next(result for result in report.results if result.gate == gate)


def outcomes(report: GateReport) -> dict[str, str]:
    return {result.gate: result.outcome for result in report.results}


class TestVerdicts:
    @pytest.mark.parametrize(("after", "n", "least"), [(0.95, 300, 3), (0.92, 4000, 1)])
    def test_a_better_challenger_is_promoted_beside_a_shadow_set(self, after: float, n: int, least: int) -> None:
        """`python -m bench gate` measures the shares."""
        reports = [one_pair(Cell(0.90, after, n), seed) for seed in range(least + 1)]
        assert sum(report.verdict == "promote" for report in reports) >= least, [each.reason for each in reports]

    def test_a_clearly_better_challenger_is_promoted(self) -> None:
        report = say(rivals(300, 0.9, 1.6))
        assert report.verdict == "promote", report.reason
        assert set(outcomes(report).values()) == {"pass", "skipped"}

    @pytest.mark.parametrize("seed", range(5))
    def test_an_equal_challenger_is_held(self, seed: int) -> None:
        report = say(rivals(300, 1.5, 1.5, seed=seed))
        assert report.verdict == "hold", report.reason

    def test_the_very_same_margins_are_held(self) -> None:
        truth = truth_of(300, 0)
        champion = model(truth, 1.5, seed=1)
        report = say(pair(truth, champion, replace(champion, name="again")))
        assert report.verdict == "hold"
        assert outcomes(report) == {
            "G0": "pass", "G1": "pass", "G2": "undecided", "G3": "pass", "G4": "pass", "G5": "pass", "G6": "skipped"
        }  # fmt: skip

    def test_a_worse_challenger_is_rejected(self) -> None:
        report = say(rivals(300, 1.5, 0.9))
        assert report.verdict == "reject"
        assert of(report, "G1").outcome == "fail"

    @pytest.mark.parametrize("n", [40, 300])
    def test_a_challenger_trained_on_turned_labels_is_rejected(self, n: int) -> None:
        truth = truth_of(n, 3)
        poisoned = replace(model(truth, -1.5, seed=7), calibrator=None, misfit="higher margins do not mean positive")
        report = say(pair(truth, model(truth, 1.5, seed=6), poisoned))
        assert report.verdict == "reject"
        assert of(report, "G1").outcome == of(report, "G4").outcome == "fail"

    def test_a_slope_that_is_not_positive_rejects_even_without_another_sign(self) -> None:
        paired = rivals(300, 0.9, 1.6)
        unfit = replace(paired.challenger, calibrator=None, misfit="higher margins do not mean positive")
        assert say(replace(paired, challenger=unfit)).verdict == "reject"

    def test_labels_that_allow_no_calibrator_hold(self) -> None:
        paired = rivals(300, 0.9, 1.6)
        unread = replace(paired.challenger, calibrator=None, misfit="one kind of label alone")
        report = say(replace(paired, challenger=unread))
        assert report.verdict == "hold"
        assert "one kind of label alone" in report.reason

    def test_equal_models_are_hardly_ever_promoted(self) -> None:
        promoted = sum(say(rivals(200, 1.2, 1.2, seed=seed)).promotes for seed in range(40))
        assert promoted <= 2  # at a level of 5 % for each of several conditions

    def test_the_same_input_gives_the_same_report(self) -> None:
        assert say(rivals(100, 1.0, 1.3)).record() == say(rivals(100, 1.0, 1.3)).record()


class TestSmallSets:
    def test_a_tiny_golden_set_holds_and_says_how_many_are_needed(self) -> None:
        report = say(rivals(24, 1.2, 1.4))
        assert report.verdict == "hold"
        assert report.reason.startswith("golden set too small to decide: 24 images, ")
        assert f"{report.figures['images_needed']:,} needed" in report.reason
        assert "24 golden images" in report.power

    def test_the_images_needed_are_those_for_the_gain_that_was_seen(self) -> None:
        report = say(rivals(60, 0.9, 1.6))
        seen = report.figures["challenger"]["accuracy"] - report.figures["champion"]["accuracy"]
        assert seen > 0.05
        assert report.figures["images_needed_for"] == pytest.approx(seen)
        assert report.figures["images_needed"] < 500

    def test_a_loss_that_is_only_not_excluded_is_left_open(self) -> None:
        result = of(say(rivals(60, 1.5, 1.5)), "G1")
        assert result.outcome == "undecided"
        assert result.figures["average precision"]["low"] < -0.01 < 0 < result.figures["average precision"]["high"]

    def test_a_perfect_gain_on_few_images_of_a_kind_proves_nothing(self) -> None:
        truth = np.array([0] * 4 + [1] * 30)
        right = np.where(truth == 0, 2.0, -2.0)
        report = say(pair(truth, side(-right, truth * 0, None), side(right, truth, platt(1.5))))
        assert report.verdict == "hold"
        assert "4 distinct positive golden images" in of(report, "G1").words

    def test_no_golden_image_holds(self) -> None:
        report = say(rivals(0, 1.0, 1.0))
        assert report.verdict == "hold"
        assert "no golden images" in report.reason

    def test_a_recent_slice_that_proves_little_leaves_it_to_all_golden_images(self) -> None:
        recent = np.zeros(300, bool)
        recent[:20] = True
        result = of(say(rivals(300, 0.9, 1.6, recent=recent)), "G2")
        assert result.outcome == "pass"
        assert result.figures["n"] == 300

    def test_a_gain_within_chance_decides_nothing(self) -> None:
        truth = np.arange(300) % 2
        right = np.where(truth == 0, 2.0, -2.0)
        before, after = right.copy(), right.copy()
        before[:5] *= -1
        after[5:7] *= -1
        result = of(say(pair(truth, *(side(m, (m < 0).astype(int), platt(1.0)) for m in (before, after)))), "G2")
        assert (result.figures["won"], result.figures["lost"]) == (5, 2)
        assert result.outcome == "undecided"

    def test_near_duplicates_count_once(self) -> None:
        truth = np.arange(120) % 2
        right = np.where(truth == 0, 2.0, -2.0)
        before = right * np.where(np.arange(120) < 12, -1, 1)
        sides = [side(margins, (margins < 0).astype(int), platt(1.0)) for margins in (before, right)]
        apart = pair(truth, *sides)
        alike = pair(truth, *sides, clusters=["burst" if i < 12 else f"c{i}" for i in range(120)])
        assert of(say(apart), "G2").outcome == "pass"
        assert of(say(alike), "G2").outcome == "undecided"
        assert of(say(alike), "G2").figures["clusters_won"] == 1

    def test_a_gain_on_old_images_alone_is_not_enough(self) -> None:
        truth = truth_of(400, 5)
        old, same = model(truth, 0.7, seed=1), model(truth, 1.8, seed=1)
        recent = np.arange(400) < 200
        margins = np.where(recent, old.margins, same.margins)
        mixed = replace(old, margins=margins, answers=np.where(margins >= 0, 0, 1))
        report = say(pair(truth, old, mixed, recent=recent))
        assert of(report, "G2").outcome == "undecided"
        assert of(report, "G2").figures["n"] == 200
        assert of(report, "G2").figures["gain"]["value"] == 0
        assert report.verdict == "hold"


class TestIntegrity:
    @pytest.mark.parametrize(
        ("facts", "figure", "value"),
        [
            (Facts(train_keys=frozenset({"key7"})), "leaked", ["key7"]),
            (Facts(train_clusters=frozenset({"cluster7"})), "leaked_lookalikes", ["key7"]),
            (Facts(canary_problem="margins moved"), "canary_problem", "margins moved"),
            (Facts(same_question=False), "same_question", False),
            (Facts(same_base=False), "same_base", False),
            (Facts(unreadable=2), "unreadable", 2),
        ],
    )
    def test_what_makes_the_comparison_worthless_rejects(self, facts: Facts, figure: str, value: object) -> None:
        report = say(rivals(300, 0.9, 1.6, facts=facts))
        assert report.verdict == "reject"
        assert report.reason.startswith("G0")
        assert of(report, "G0").figures[figure] == value

    def test_the_images_that_leaked_are_named(self) -> None:
        report = say(rivals(300, 0.9, 1.6, facts=Facts(train_keys=frozenset({"key7", "other"}))))
        assert of(report, "G0").figures["leaked"] == ["key7"]


class TestSlices:
    def split(self, hurt: float) -> Paired:
        """Better in `print`, `hurt` in `neon`."""
        truth = truth_of(600, 9)
        neon = np.arange(600) % 6 == 0
        before, after, lame = (model(truth, skill, seed=seed) for skill, seed in ((0.9, 1), (2.4, 2), (hurt, 2)))
        margins = np.where(neon, lame.margins, after.margins)
        challenger = replace(after, margins=margins, answers=np.where(margins >= 0, 0, 1))
        return pair(truth, before, challenger, slices={"style": ["neon" if at else "print" for at in neon]})

    def test_a_slice_that_pays_for_the_gain_is_caught(self) -> None:
        report = say(self.split(hurt=0.0))
        assert of(report, "G2").outcome == "pass"
        assert report.verdict == "reject"
        assert report.reason.startswith("G3")
        assert "style=neon" in report.reason
        assert of(report, "G3").figures["style=neon"]["p_holm"] < 0.05

    def test_a_gain_everywhere_passes(self) -> None:
        assert of(say(self.split(hurt=2.4)), "G3").outcome == "pass"

    def test_recall_below_the_floor_is_caught_where_accuracy_hides_it(self) -> None:
        truth = np.array([0] * 40 + [1] * 160)
        before = np.where(np.arange(200) < 36, 2.0, -2.0)  # 36 of 40 found
        before[40:80] = 2.0  # and 40 false alarms
        after = np.where(np.arange(200) < 28, 2.0, -2.0)  # 28 of 40 found, no false alarm
        spread = np.linspace(0, 0.1, 200)
        both = [side(margins + spread, (margins < 0).astype(int), platt(1.5)) for margins in (before, after)]
        part = of(say(pair(truth, *both, slices={"source": ["ads"] * 200})), "G3").figures["source=ads"]
        assert part["recall"] == pytest.approx(0.7)
        assert part["floor"] == pytest.approx(0.7695, abs=1e-3)
        assert part["below_floor"]
        assert part["won"] > part["lost"]

    def test_a_base_that_flags_nothing_does_not_win_among_the_negatives(self) -> None:
        truth = truth_of(300, 4)
        base = replace(model(truth, 0.1, seed=1, name="base alone", learnt=False), calibrator=platt(0.1))
        challenger = model(truth, 1.2, seed=2)
        paired = pair(truth, base, challenger)
        assert not (base.margins >= base.even).any()
        assert say(paired).verdict == "promote"
        assert say(replace(paired, champion=replace(base, learnt=True))).verdict == "reject"


class TestCalibration:
    def test_probabilities_that_got_much_worse_are_caught(self) -> None:
        paired = rivals(600, 1.0, 1.0)
        boasting = replace(paired.challenger, calibrator=Calibrator(a=40.0, b=0.0, n=300, prevalence=0.3))
        result = of(say(replace(paired, challenger=boasting)), "G4")
        assert result.outcome == "fail"

    def test_equal_calibration_is_hardly_ever_held_against_a_small_set(self) -> None:
        failed = sum(of(say(rivals(60, 1.2, 1.2, seed=seed)), "G4").outcome == "fail" for seed in range(30))
        assert failed <= 4

    def test_what_resampling_adds_to_the_calibration_error_is_taken_off(self) -> None:
        paired = rivals(60, 1.2, 1.2)
        evidence = collect_evidence(paired, limits=Limits(), seed=0, resamples=50)
        for bias, outcome in ((0.0, "fail"), (0.015, "pass")):
            error = Bounded(value=0.03, low=0.02, high=0.06, bias=bias)
            found = replace(evidence, brier=Bounded(value=0, low=0, high=0, bias=0), calibration_error=error)
            assert g4_calibrated(paired, found, Limits()).outcome == outcome

    def test_a_champion_without_calibrator_is_no_measure(self) -> None:
        paired = rivals(300, 0.9, 1.6)
        unread = replace(paired.champion, calibrator=None, misfit="one kind of label alone")
        assert of(say(replace(paired, champion=unread)), "G4").outcome == "skipped"


class TestFlips:
    def flipped(self, lost: int, won: int, n: int = 400) -> GateResult:
        truth = np.arange(n) % 2
        right = np.where(truth == 0, 2.0, -2.0)
        before, after = right.copy(), right.copy()
        after[:lost] *= -1
        before[lost : lost + won] *= -1
        sides = [side(margins, (margins < 0).astype(int), platt(1.0)) for margins in (before, after)]
        return of(say(pair(truth, *sides)), "G5")

    @pytest.mark.parametrize(
        ("lost", "won", "outcome"),
        [
            (4, 0, "pass"),
            (5, 0, "undecided"),
            (8, 16, "pass"),
            (10, 16, "undecided"),
            (24, 24, "fail"),
            (40, 70, "pass"),  # more than half, and a gain beyond chance
        ],
    )
    def test_few_or_paid_for(self, lost: int, won: int, outcome: str) -> None:
        assert self.flipped(lost, won).outcome == outcome

    def test_each_is_named_with_both_margins(self) -> None:
        flips = self.flipped(lost=2, won=9).figures["flips"]
        assert [flip["key"] for flip in flips] == ["key0", "key1"]
        assert flips[0]["truth"] == flips[0]["champion"] == "overlay"
        assert (flips[0]["champion_margin"], flips[0]["challenger_margin"]) == (2.0, -2.0)

    def test_churn_without_loss_is_for_a_person(self) -> None:
        report = say(rivals(1500, 1.5, 1.5, seed=1))
        assert of(report, "G5").outcome == "fail"
        assert report.verdict == "hold"


class TestShadow:
    def shadow(
        self,
        *,
        before: int = 60,
        after: int = 60,
        psi: float | None = 0.05,
        golden_psi: float = 0.0,
        times: float = 1.0,
    ) -> Shadow:
        rank = np.arange(300)
        seconds = [(1.0, times * (1 + 0.02 * (i % 3))) for i in range(9)]
        return Shadow(
            champion_flags=rank < before,
            challenger_flags=rank < after,
            psi=psi,
            golden_psi=golden_psi,
            seconds=seconds,
        )

    @pytest.mark.parametrize(
        ("given", "outcome"),
        [
            ({}, "pass"),
            ({"after": 120}, "fail"),
            ({"after": 20}, "fail"),
            ({"before": 5, "after": 8}, "undecided"),
            ({"before": 0, "after": 0}, "pass"),
            ({"psi": 0.3}, "fail"),
            ({"psi": 0.5, "golden_psi": 0.35}, "pass"),  # it is surer everywhere
            ({"psi": 0.5, "golden_psi": 0.25}, "fail"),
            ({"psi": None}, "pass"),
            ({"times": 1.3}, "fail"),
        ],
    )
    def test_what_would_change_in_the_archive(self, given: dict[str, float], outcome: str) -> None:
        report = say(rivals(300, 0.9, 1.6), self.shadow(**given))
        assert of(report, "G6").outcome == outcome
        assert report.verdict == ("promote" if outcome == "pass" else "hold")

    def test_beside_the_base_alone_only_latency_binds(self) -> None:
        paired = rivals(300, 0.5, 1.6, learnt=False)
        assert of(say(paired, self.shadow(after=150, psi=0.9)), "G6").outcome == "pass"
        assert of(say(paired, self.shadow(times=1.3)), "G6").outcome == "fail"

    def test_a_busy_machine_refuses_no_model(self) -> None:
        noisy = replace(self.shadow(), seconds=[(1.0, t) for t in (0.8, 2.5, 1.3, 0.9, 1.2, 3.0, 0.95, 1.2, 1.3)])
        result = of(say(rivals(300, 0.9, 1.6), noisy), "G6")
        assert result.figures["latency"] > 1.1
        assert result.outcome == "pass"


def certificate(target: float = 0.95, *, trials: int = 37, failures: int = 0) -> Certificate:
    return Certificate(target=target, confidence=0.95, threshold=None, achieved=1.0, trials=trials, failures=failures)


class TestDecisions:
    BOTH = Thresholds(review=-1.0, flag=1.0)

    def rivals(self, before: Thresholds | None, after: Thresholds | None, *, learnt: bool = True) -> Paired:
        paired = rivals(300, 0.9, 1.6, learnt=learnt)
        seen = {"recall": certificate(), "precision": certificate(trials=59, failures=3), "certified_on": 120}
        challenger = replace(paired.challenger, thresholds=after, **seen)
        return replace(paired, champion=replace(paired.champion, thresholds=before), challenger=challenger)

    def decisions(self, report: GateReport) -> GateResult:
        return next(result for result in report.results if result.title == "decisions")

    def test_thresholds_as_certified_as_the_champions_pass_without_a_note(self) -> None:
        report = say(self.rivals(self.BOTH, self.BOTH))
        assert (report.verdict, self.decisions(report).outcome, report.notes) == ("promote", "pass", ())

    def test_flags_that_vanish_hold(self) -> None:
        report = say(self.rivals(self.BOTH, Thresholds(review=-1.0, flag=None)))
        assert report.verdict == "hold"
        assert report.reason.startswith("G6 decisions: ")
        for datum in ("precision 0.95", "120 labels", "3 of the 59", "at least 59 flagged images", "target_precision"):
            assert datum in report.reason
        assert "flags nothing" in report.notes[0]
        assert "clears" not in report.notes[0]

    def test_clears_that_vanish_hold(self) -> None:
        report = say(self.rivals(self.BOTH, Thresholds(review=None, flag=1.0)))
        assert report.verdict == "hold"
        assert "recall 0.95" in report.reason
        assert "37 positives" in report.reason
        assert "59 positives without a miss" in report.reason

    def test_a_champion_that_has_none_either_loses_nothing_but_it_is_reported(self) -> None:
        none = Thresholds(review=None, flag=None)
        report = say(self.rivals(none, none))
        assert report.verdict == "promote"
        assert self.decisions(report).outcome == "skipped"
        (note,) = report.notes
        assert note.startswith("WARNING: adapter 2 sends EVERY image to review: it flags nothing: precision 0.95")
        assert "; it clears nothing: recall 0.95" in note
        assert note in report.reason  # which is said with the promotion

    def test_beside_the_base_alone_it_is_reported_and_binds_nothing(self) -> None:
        report = say(self.rivals(self.BOTH, Thresholds(review=None, flag=None), learnt=False))
        assert report.verdict == "promote", report.reason
        assert self.decisions(report).words.endswith("(not binding against the base alone)")
        assert "EVERY image" in report.notes[0]

    def test_a_card_without_thresholds_is_served_at_even_odds_which_nothing_certifies(self) -> None:
        report = say(self.rivals(self.BOTH, None))
        assert report.verdict == "hold"
        assert "the challenger flags at even odds" in report.reason
        assert report.notes == ()
        assert report.figures["challenger"]["share_review"] == 0

    def test_notes_stand_right_below_the_verdict_and_come_back(self) -> None:
        report = say(self.rivals(self.BOTH, Thresholds(review=-1.0, flag=None)))
        assert report.lines()[1] == report.notes[0]
        assert GateReport.from_record(json.loads(json.dumps(report.record()))).notes == report.notes

    def test_a_record_from_before_there_were_notes_is_read(self) -> None:
        old = say(rivals(60, 0.9, 1.6)).record()
        del old["notes"]
        assert GateReport.from_record(old).notes == ()

    def test_shares_of_the_base_alone_are_those_of_the_sign_of_its_margin(self) -> None:
        paired = self.rivals(Thresholds(review=-9.0, flag=9.0), self.BOTH, learnt=False)
        found = say(paired).figures["champion"]
        assert found["share_flag"] == pytest.approx((paired.champion.margins >= 0).mean())
        assert found["share_review"] == 0
        kept = say(replace(paired, champion=replace(paired.champion, learnt=True))).figures["champion"]
        assert kept["share_review"] == 1


def test_the_margin_move_is_that_of_nine_images_in_ten() -> None:
    truth = np.arange(101) % 2
    before = side(np.zeros(101), truth, platt(1.0))
    after = side(-np.arange(101.0), truth, platt(1.0))
    assert say(pair(truth, before, after)).figures["margin_move_p90"] == pytest.approx(90)
    assert say(rivals(0, 1.0, 1.0)).figures["margin_move_p90"] is None


class TestPlainClassification:
    def rivals(self, n: int, before: float, after: float) -> Paired:
        truth = np.arange(n) % 3
        sides = []
        for seed, share in ((1, before), (2, after)):
            rng = np.random.default_rng(seed)
            right = rng.random(n) < share
            answers = np.where(right, truth, (truth + 1) % 3)
            margins = np.where(right, 1.0, -0.5) + rng.normal(size=n)
            sides.append(side(margins, answers, fit_platt(margins.tolist(), right.tolist())))
        return pair(truth, *sides, question=PLAIN)

    def test_more_labels_right_are_promoted(self) -> None:
        report = say(self.rivals(300, 0.6, 0.85))
        assert report.verdict == "promote", report.reason
        assert "accuracy" in of(report, "G1").words

    def test_fewer_are_rejected(self) -> None:
        assert say(self.rivals(300, 0.85, 0.6)).verdict == "reject"


class TestReport:
    def test_it_comes_back_from_json(self) -> None:
        shadow = TestShadow().shadow()
        report = say(rivals(60, 0.9, 1.6), shadow)
        text = json.dumps(report.record(), allow_nan=False)
        again = GateReport.from_record(json.loads(text))
        assert again.record() == json.loads(text)
        assert again.lines() == report.lines()

    def test_sets_without_one_kind_are_plain_json_too(self) -> None:
        truth = np.ones(30, int)
        report = say(pair(truth, model(truth, 1.0, seed=1), model(truth, 1.0, seed=2)))
        json.dumps(report.record(), allow_nan=False)
        assert report.verdict == "hold"

    def test_people_read_every_condition_and_both_models(self) -> None:
        text = "\n".join(say(rivals(300, 0.9, 1.6)).lines())
        assert text.startswith("promote: ")
        for word in ("G0", "G3", "G6", "adapter 1", "adapter 2", "average precision", "brier", "1.0"):
            assert word in text

    def test_columns_of_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same images"):
            rivals(30, 1.0, 1.0, recent=np.ones(29, bool))
