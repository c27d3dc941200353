"""Boxes of several readings as one list: examples by hand, and properties of any boxes."""

from __future__ import annotations

import random

import pytest

from scanfleet.models.crops.box_fusion import How, in_image, merge_boxes
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Box, FoundBoxes

SIZE = (400, 300)
HOWS: tuple[How, ...] = ("nms", "wbf")


def box(x0: float, y0: float, x1: float, y1: float, score: float | None = None, label: str = "gun") -> Box:
    return Box(x0=x0, y0=y0, x1=x1, y1=y1, label=label, score=score)


def look(*boxes: Box, problems: tuple[str, ...] = ()) -> FoundBoxes:
    return FoundBoxes(boxes=boxes, problems=problems, size=SIZE)


def corners(box: Box) -> tuple[float, float, float, float]:
    return (box.x0, box.y0, box.x1, box.y1)


def test_two_readings_of_one_object_are_averaged_by_score() -> None:
    merged = merge_boxes([look(box(0, 0, 100, 100, 0.9)), look(box(20, 0, 120, 100, 0.3))])
    (found,) = merged.boxes  # they share 80 of 120: two thirds
    assert corners(found) == pytest.approx((5, 0, 105, 100))  # (0.9 · 0 + 0.3 · 20) / 1.2, and so on
    assert found.score == pytest.approx(0.6)  # both readings found it


def test_a_box_of_one_of_three_readings_counts_a_third() -> None:
    merged = merge_boxes([look(box(0, 0, 100, 100, 0.9)), look(), look(box(200, 100, 300, 200))])
    assert [found.score for found in merged.boxes] == pytest.approx([1 / 3, 0.3])
    assert [corners(found)[0] for found in merged.boxes] == [200, 0]


def test_a_reading_that_could_not_see_a_place_does_not_count_there() -> None:
    left, right = Region(x0=0, y0=0, x1=200, y1=300), Region(x0=200, y0=0, x1=400, y1=300)
    merged = merge_boxes([look(box(10, 10, 60, 60, 0.8)), look()], regions=[left, right])
    assert merged.boxes[0].score == pytest.approx(0.8)
    assert merge_boxes([look(box(10, 10, 60, 60, 0.8)), look()]).boxes[0].score == pytest.approx(0.4)


def test_fused_boxes_that_came_to_overlap_are_fused_again() -> None:
    """45 and 50 make 47.5, 30 and 15 make 22.5: those two then share 75 of 125."""
    lefts = ((45, 0.7), (50, 0.7), (30, 0.5), (15, 0.5))
    (found,) = merge_boxes([look(*(box(x, 0, x + 100, 10, score) for x, score in lefts))]).boxes
    assert found.x0 == pytest.approx(89 / 2.4)
    assert found.score == pytest.approx(0.6)


def test_rounding_takes_no_corner_out_of_the_hull() -> None:
    edge, scores = 10.844164936860668, (0.6516801241316054, 0.640129892203649, 0.05503174963177837)
    (found,) = merge_boxes([look(box(edge, 0, 100, 100, score)) for score in scores]).boxes
    assert found.x0 == edge


def test_suppression_keeps_the_best_as_it_is() -> None:
    best, other, far = box(20, 0, 120, 100, 0.9), box(0, 0, 100, 100, 0.3), box(200, 100, 300, 200, 0.1)
    assert merge_boxes([look(other, far), look(best)], how="nms").boxes == (best, far)


def test_of_boxes_without_a_score_suppression_keeps_the_tighter() -> None:
    loose, tight = box(0, 0, 120, 100), box(10, 0, 110, 100)
    assert merge_boxes([look(loose), look(tight)], how="nms").boxes == (tight,)


@pytest.mark.parametrize("how", HOWS)
def test_labels_do_not_mix(how: How) -> None:
    merged = merge_boxes([look(box(0, 0, 100, 100, 0.9)), look(box(0, 0, 100, 100, 0.9, "knife"))], how=how)
    assert {found.label for found in merged.boxes} == {"gun", "knife"}


@pytest.mark.parametrize("how", HOWS)
def test_a_little_overlap_is_two_things(how: How) -> None:
    merged = merge_boxes([look(box(0, 0, 100, 100, 0.9)), look(box(50, 0, 150, 100, 0.8))], how=how)  # one third
    assert len(merged.boxes) == 2


def test_a_crops_boxes_move_back_into_the_image() -> None:
    region = Region(x0=100, y0=50, x1=300, y1=150)  # 200 x 100, read at twice its size
    found = FoundBoxes(boxes=(box(0, 0, 40, 20, 0.5), box(200, 100, 400, 200)), problems=("cut",), size=(400, 200))
    moved = in_image(found, region, SIZE)
    assert [corners(each) for each in moved.boxes] == [(100, 50, 120, 60), (200, 100, 300, 150)]
    assert [each.score for each in moved.boxes] == [0.5, None]
    assert (moved.size, moved.problems) == (SIZE, ("cut",))


def test_readings_of_images_of_different_sizes_are_refused() -> None:
    crop = FoundBoxes(boxes=(), problems=(), size=(100, 100))
    with pytest.raises(ValueError, match="in_image"):
        merge_boxes([look(), crop])


@pytest.mark.parametrize("how", HOWS)
def test_problems_are_told_once_and_nothing_found_is_nothing(how: How) -> None:
    merged = merge_boxes([look(problems=("a", "b")), look(problems=("b",))], how=how)
    assert (merged.boxes, merged.problems, merged.size) == ((), ("a", "b"), SIZE)


def crowd(seed: int) -> list[FoundBoxes]:
    """One to four readings, so crowded that most boxes overlap some other; some have no area, some no score."""
    rng = random.Random(seed)

    def one() -> Box:
        x, y, width, height = (rng.choice([rng.uniform(0, 60), 0.0, 30.0]) for _ in range(4))
        return box(x, y, x + width, y + height, rng.choice([None, 0.0, rng.random()]), rng.choice(["gun", "knife"]))

    return [look(*(one() for _ in range(rng.randint(0, 8)))) for _ in range(rng.randint(1, 4))]


CROWDS = [crowd(seed) for seed in range(60)]


@pytest.mark.parametrize("how", HOWS)
def test_the_order_of_readings_and_boxes_makes_no_difference(how: How) -> None:
    rng = random.Random(0)
    for looks in CROWDS:
        shuffled = [look(*rng.sample(each.boxes, len(each.boxes))) for each in rng.sample(looks, len(looks))]
        assert merge_boxes(shuffled, how=how).boxes == merge_boxes(looks, how=how).boxes


@pytest.mark.parametrize("how", HOWS)
def test_merging_again_changes_nothing(how: How) -> None:
    for looks in CROWDS:
        once = merge_boxes(looks, how=how)
        assert merge_boxes([once], how=how).boxes == once.boxes
        assert len(once.boxes) <= sum(len(each.boxes) for each in looks)


@pytest.mark.parametrize("how", HOWS)
def test_no_box_leaves_the_hull_or_gains_score(how: How) -> None:
    for looks in CROWDS:
        for found in merge_boxes(looks, how=how).boxes:
            alike = [each for one in looks for each in one.boxes if each.label == found.label]
            assert min(each.x0 for each in alike) <= found.x0 <= found.x1 <= max(each.x1 for each in alike)
            assert min(each.y0 for each in alike) <= found.y0 <= found.y1 <= max(each.y1 for each in alike)
            assert score_of(found) <= max(map(score_of, alike)) + 1e-12


def score_of(box: Box) -> float:
    return 1.0 if box.score is None else box.score
