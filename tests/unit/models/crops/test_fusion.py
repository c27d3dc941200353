"""Several readings as one, and the crop pass without a fleet, over the fakes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from typing import cast

import pytest
from PIL import Image

from scanfleet.models.crops.batch import TwoPassReading, packed, run_crop_pass
from scanfleet.models.crops.fusion import fused
from scanfleet.models.crops.policy import Fuse
from scanfleet.models.fake import FakeCropReader, FakePrepared, FakeScorer
from scanfleet.models.scoring.margin import margin_of
from scanfleet.models.types import CropReader, Question, Reading, Scorer

TWO = Question(name="two", prompt="?", labels=("a", "b"), flags=frozenset({"a"}))
THREE = Question(name="three", prompt="?", labels=("a", "b", "c"), flags=frozenset({"a", "b"}))
PLAIN = Question(name="plain", prompt="?", labels=("a", "b", "c"), flags=frozenset())


def reading(question: Question, *logits: float, mass: float = 0.99, tokens: int = 10) -> Reading:
    return Reading(
        margin=margin_of(logits, question.labels, question.flags), logits=logits, mass=mass, visual_tokens=tokens
    )


def test_the_mean_of_two_labels_is_the_mean_of_the_margins() -> None:
    both = fused(reading(TWO, 9.0, 8.0), [reading(TWO, -20.0, -15.0)], how="mean", question=TWO)
    assert both.margin == pytest.approx((1.0 - 5.0) / 2)


def test_a_reading_with_larger_logits_counts_no_more_than_another() -> None:
    first, second = reading(THREE, 1.0, 2.0, 3.0), reading(THREE, 0.5, 0.0, -2.0)
    raised = reading(THREE, 100.5, 100.0, 98.0)
    one, other = (fused(first, [look], how="mean", question=THREE) for look in (second, raised))
    assert one.margin == pytest.approx(other.margin)
    assert one.logits == pytest.approx(other.logits)


@pytest.mark.parametrize("question", [THREE, PLAIN])
@pytest.mark.parametrize("how", ["mean", "max", "second"])
def test_margin_and_label_logits_always_say_the_same(question: Question, how: Fuse) -> None:
    looks = [reading(question, 1.0, 2.0, 2.9), reading(question, -1.0, 4.0, 0.0), reading(question, 0.2, 0.1, 0.3)]
    for first in looks:
        for second in looks:
            both = fused(first, [second], how=how, question=question)
            assert both.margin == pytest.approx(margin_of(both.logits, question.labels, question.flags))


def test_the_largest_margin_or_the_crop_pass_alone() -> None:
    low, high = reading(TWO, 0.0, 3.0, mass=0.5), reading(TWO, 2.0, 0.0, mass=0.9)
    assert fused(low, [high], how="max", question=TWO).margin == high.margin
    assert fused(high, [low], how="max", question=TWO).margin == high.margin
    assert fused(high, [low], how="second", question=TWO).margin == low.margin


def test_of_several_rows_the_one_with_the_largest_margin_counts() -> None:
    first = reading(TWO, 0.0, 2.0)
    tiles = [reading(TWO, 0.0, 9.0), reading(TWO, 1.0, 0.0), reading(TWO, 0.0, 5.0)]
    assert fused(first, tiles, how="second", question=TWO).margin == 1.0
    assert fused(first, tiles, how="mean", question=TWO).margin == pytest.approx((-2.0 + 1.0) / 2)


def test_mass_is_the_smallest_of_the_readings_that_count_and_tokens_are_of_all() -> None:
    first = reading(TWO, 0.0, 1.0, mass=0.8, tokens=100)
    tiles = [reading(TWO, 0.0, 9.0, mass=0.1, tokens=7), reading(TWO, 1.0, 0.0, mass=0.9, tokens=8)]
    both = [fused(first, tiles, how=how, question=TWO) for how in ("mean", "max", "second")]
    assert [look.mass for look in both] == [0.8, 0.9, 0.9]
    assert {look.visual_tokens for look in both} == {115}


def test_without_a_crop_pass_the_first_reading_stands() -> None:
    first = reading(TWO, 0.0, 1.0)
    assert fused(first, [], how="second", question=TWO) is first


@pytest.mark.parametrize("how", ["mean", "max", "second"])
def test_a_margin_that_is_nan_is_never_lost(how: Fuse) -> None:
    broken, sound = reading(TWO, math.nan, math.nan), reading(TWO, 5.0, 0.0)
    assert math.isnan(fused(sound, [sound, broken], how=how, question=TWO).margin)


# Looking again, over the fakes


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (80 + 40 * n, 60), (n, 2 * n, 3 * n)) for n in range(9)]


def firsts(scorer: FakeScorer) -> list[Reading]:
    return scorer.score([scorer.prepare(picture) for picture in pictures()])


def again(
    scorer: FakeScorer,
    crop_reader: FakeCropReader,
    images: Sequence[Image.Image],
    known: Sequence[Reading],
    tokens: int = 999,
) -> list[TwoPassReading]:
    return run_crop_pass(cast(Scorer, scorer), cast(CropReader, crop_reader), images, known, batch_tokens=tokens)


@pytest.mark.parametrize("pointed", [True, False])
def test_readings_do_not_depend_on_the_batches(pointed: bool) -> None:
    scorer = FakeScorer(question=TWO)
    crop_reader = FakeCropReader(scorer=scorer, pointed=pointed, diffuse=0.4, cost=5)
    known = firsts(scorer)
    scorer.calls.clear()
    looked = again(scorer, crop_reader, pictures(), known, tokens=60)
    assert len(scorer.calls) > 1
    for picture, first, found in zip(pictures(), known, looked, strict=True):
        (alone,) = again(scorer, crop_reader, [picture], [first])
        assert (found.second, found.fused, found.pointed) == (alone.second, alone.fused, alone.pointed)
        assert found.tokens == sum(look.visual_tokens for look in found.second) + 5 * pointed
        assert (found.region is None) == (found.second == () or not pointed)


def test_without_a_region_the_first_pass_is_the_answer() -> None:
    scorer = FakeScorer(question=TWO)
    crop_reader = FakeCropReader(scorer=scorer, diffuse=1.0)
    for found in again(scorer, crop_reader, pictures(), firsts(scorer)):
        assert found.fused == found.first
        assert (found.second, found.region, found.tokens) == ((), None, 0)


def test_batches_hold_every_item_once_within_the_budget_and_one_too_large_alone() -> None:
    items = [FakePrepared(digest=b"", visual_tokens=n) for n in (3, 50, 7, 900, 50, 1, 33)]
    batches = list(packed(items, 100))
    assert sorted(number for batch in batches for number in batch) == list(range(len(items)))
    assert [3] in batches
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(items[number].visual_tokens for number in batch) <= 100
    assert len(batches) == 4  # 900; 50, 50; 33, 7, 3; 1


def test_a_crop_pass_over_the_fakes_needs_no_torch() -> None:
    code = "import sys, scanfleet.models.fake, scanfleet.models.crops.batch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
