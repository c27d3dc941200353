"""From readings to decisions."""

import math
from dataclasses import replace

import pytest

from scanfleet.checks.frame_result import FrameResult
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.types import Question, Reading
from scanfleet.worker.scoring.decisions import Policy, certified_at, read_policy

OVERLAY = Question(name="q", prompt="Is it?", labels=("yes", "no"), flags=frozenset({"yes"}))
FLOWERS = Question(name="f", prompt="Which?", labels=("a", "b", "c"), flags=frozenset())
PLATT = Calibrator(a=2.0, b=-1.0, n=100, prevalence=0.5)


def reading(margin: float, *, mass: float = 0.99, logits: tuple[float, ...] | None = None) -> Reading:
    return Reading(margin=margin, logits=logits or (margin, 0.0), mass=mass, visual_tokens=4)


@pytest.mark.parametrize(("margin", "decision"), [(0.5, "flag"), (-0.5, "clear")])
def test_without_a_calibrator_the_sign_decides_and_there_is_no_score(margin: float, decision: str) -> None:
    made = Policy(question=OVERLAY).decide(reading(margin))
    assert (made.decision, made.score) == (decision, None)


def test_the_score_is_the_calibrated_probability() -> None:
    made = Policy(question=OVERLAY, calibrator=PLATT).decide(reading(1.5))
    assert made.score == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert made.decision == "flag"


def test_a_calibrator_without_thresholds_splits_at_one_half() -> None:
    policy = Policy(question=OVERLAY, calibrator=PLATT)
    assert policy.decide(reading(0.49)).decision == "clear"  # sigmoid(2 * .49 - 1) < .5, though the margin is positive
    assert policy.decide(reading(0.51)).decision == "flag"


@pytest.mark.parametrize(("margin", "decision"), [(-2.0, "clear"), (-1.0, "review"), (0.9, "review"), (1.0, "flag")])
def test_thresholds_are_margins(margin: float, decision: str) -> None:
    policy = Policy(question=OVERLAY, calibrator=PLATT, thresholds=Thresholds(review=-1.0, flag=1.0))
    assert policy.decide(reading(margin)).decision == decision


def test_an_uncertified_recall_clears_nothing_and_an_uncertified_precision_flags_nothing() -> None:
    assert Policy(question=OVERLAY, thresholds=Thresholds(review=None, flag=1.0)).decide(reading(-9.0)).decision == (
        "review"
    )
    assert Policy(question=OVERLAY, thresholds=Thresholds(review=-1.0, flag=None)).decide(reading(9.0)).decision == (
        "review"
    )


def test_a_low_mass_is_never_clear_and_takes_no_flag_away() -> None:
    policy = Policy(question=OVERLAY)
    assert policy.decide(reading(-3.0, mass=0.89)).decision == "review"
    assert policy.decide(reading(-3.0, mass=0.91)).decision == "clear"
    assert policy.decide(reading(3.0, mass=0.1)).decision == "flag"


def several(n_frames: int, n_scored: int, *, next_margin: float | None = None) -> FrameResult:
    return FrameResult(n_frames=n_frames, n_scored=n_scored, frame=0, next_margin=next_margin)


CERTIFIED = Policy(question=OVERLAY, calibrator=PLATT, thresholds=Thresholds(review=-1.0, flag=1.0))


def test_the_highest_of_several_margins_has_no_score_and_is_decided_by_the_thresholds() -> None:
    for margin, decision in ((-2.0, "clear"), (0.0, "review"), (1.0, "flag")):
        made = CERTIFIED.decide(reading(margin), frames=several(3, 3))
        assert (made.decision, made.score, made.reason) == (decision, None, None)
        assert CERTIFIED.decide(reading(margin)).score is not None


@pytest.mark.parametrize(("margin", "decision", "reason"), [(-9.0, "review", "frames"), (1.0, "flag", None)])
def test_a_file_with_pictures_that_were_not_scored_is_never_clear(
    margin: float, decision: str, reason: str | None
) -> None:
    for n_scored in (1, 7):
        made = CERTIFIED.decide(reading(margin), frames=several(8, n_scored))
        assert (made.decision, made.reason) == (decision, reason)
    flowers = Policy(question=FLOWERS).decide(reading(1.0, logits=(9.0, 0.0, 0.0)), frames=several(8, 7))
    assert (flowers.decision, flowers.reason) == ("review", "frames")


def test_one_scored_picture_keeps_the_score_of_a_still() -> None:
    made = CERTIFIED.decide(reading(2.0), frames=several(8, 1))
    assert made.score == CERTIFIED.decide(reading(2.0)).score


def test_a_crop_that_lowers_the_highest_margin_does_not_clear_the_other_pictures() -> None:
    for policy in (CERTIFIED, replace(CERTIFIED, once=CERTIFIED)):
        assert policy.decide(reading(-3.0), frames=several(3, 3, next_margin=0.5)).decision == "review"
        assert policy.decide(reading(-3.0), frames=several(3, 3, next_margin=-2.0)).decision == "clear"
    strict = replace(CERTIFIED, once=Policy(question=OVERLAY, thresholds=Thresholds(review=-4.0, flag=1.0)))
    assert strict.decide(reading(-5.0), frames=several(3, 3, next_margin=-2.0)).decision == "review"


def test_the_label_is_the_likeliest() -> None:
    assert Policy(question=FLOWERS).decide(reading(0.0, logits=(0.0, 3.0, 1.0))).label == "b"


def test_a_classification_asks_for_review_when_no_label_has_half_the_weight() -> None:
    policy = Policy(question=FLOWERS)
    assert policy.decide(reading(0.0, logits=(0.0, 3.0, 1.0))).decision == "clear"
    assert policy.decide(reading(0.0, logits=(1.0, 1.0, 0.9))).decision == "review"


def test_the_columns_of_an_adapter_become_a_policy() -> None:
    calibrator = {"a": 2.0, "b": -1.0, "n": 100, "prevalence": 0.5, "method": "platt"}
    policy = read_policy(OVERLAY, calibrator=calibrator, thresholds={"review": -1.0, "flag": None})
    assert policy == Policy(question=OVERLAY, calibrator=PLATT, thresholds=Thresholds(review=-1.0, flag=None))


def test_a_score_is_stated_for_the_archive_and_a_threshold_for_more_positives_does_not_flag() -> None:
    plain = CERTIFIED.decide(reading(2.0))
    assert plain.score is not None
    rare = CERTIFIED.in_archive(0.02, certified_at=0.5).decide(reading(2.0))
    assert rare.score == PLATT.probability(2.0, prevalence=0.02)
    assert rare.score < plain.score
    assert (plain.decision, rare.decision) == ("flag", "review")
    assert CERTIFIED.in_archive(0.02, certified_at=0.5).decide(reading(-2.0)).decision == "clear"
    for certified in (0.02, 0.01):
        assert CERTIFIED.in_archive(0.02, certified_at=certified).decide(reading(2.0)).decision == "flag"
    assert CERTIFIED.in_archive(None, certified_at=0.5) == CERTIFIED
    quantised = CERTIFIED.in_archive(0.02, certified_at=0.5).at_precision("nf4")
    assert (quantised.thresholds, quantised.calibrator) == (Thresholds(review=-1.5, flag=None), None)


def test_a_card_says_what_its_precision_was_certified_at_or_its_labels_do() -> None:
    assert certified_at({"precision_certificate": {"prevalence": 0.02}}, PLATT) == 0.02
    assert certified_at({"precision_certificate": {"target": 0.9}}, PLATT) == PLATT.prevalence
    assert certified_at({"precision_certificate": None}, None) is None


def test_a_malformed_calibrator_is_refused() -> None:
    with pytest.raises(ValueError, match="finite a > 0"):
        read_policy(OVERLAY, calibrator={"a": -1.0, "b": 0.0, "n": 1, "prevalence": 0.5}, thresholds=None)


@pytest.mark.parametrize(("precision", "by"), [("int8", 0.25), ("nf4", 0.5)])
def test_a_quantised_scorer_leaves_to_a_person_what_quantising_may_have_moved(precision: str, by: float) -> None:
    fitted = Policy(question=OVERLAY, calibrator=PLATT, thresholds=Thresholds(review=-1.0, flag=1.0))
    assert fitted.at_precision("fp32") == fitted.at_precision("bf16") == fitted
    held = fitted.at_precision(precision)
    assert (held.calibrator, held.thresholds) == (None, Thresholds(review=-1.0 - by, flag=1.0 + by))
    uncertified = Policy(question=OVERLAY, calibrator=PLATT, thresholds=Thresholds(review=None, flag=1.0))
    assert uncertified.at_precision(precision).decide(reading(-9.0)).decision == "review"


def test_quantised_and_without_thresholds_the_middle_goes_to_a_person() -> None:
    held = Policy(question=OVERLAY, calibrator=PLATT).at_precision("int8")  # one half lies at a margin of 0.5
    assert [held.decide(reading(m)).decision for m in (0.24, 0.26, 0.74, 0.76)] == ["clear", "review", "review", "flag"]
    plain = Policy(question=OVERLAY)
    assert plain.at_precision("nf4") == plain


@pytest.mark.parametrize(("margin", "alone"), [(5.0, "flag"), (-5.0, "clear")])
def test_an_image_unlike_the_calibration_is_left_to_a_person(margin: float, alone: str) -> None:
    policy = Policy(question=OVERLAY, thresholds=Thresholds(review=-1.0, flag=1.0))
    unlike = replace(reading(margin), unlike=0.995, is_unlike=True)
    found = policy.decide(unlike)
    assert (found.decision, found.doubted) == ("review", alone)
    said = replace(policy, once=policy).saying(True)
    assert (said.decide(unlike).decision, said.after(None).decide(unlike).decision) == (alone, alone)
    assert policy.decide(replace(unlike, is_unlike=False)).doubted is None


def test_a_review_is_not_doubted() -> None:
    policy = Policy(question=OVERLAY, thresholds=Thresholds(review=-1.0, flag=1.0))
    assert policy.decide(replace(reading(0.0), unlike=0.995, is_unlike=True)).doubted is None
