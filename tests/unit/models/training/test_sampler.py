"""Which images a training sees, how often, and beside which."""

from __future__ import annotations

from collections import Counter

import pytest

from scanfleet.models.training.data.sampler import Plan, SampleId
from scanfleet.models.training.optimiser import rate

RARE = [0] * 90 + [1] * 8 + [2] * 2


def plan(
    labels: list[int], small: list[int] | None = None, *, seed: int = 1, share: float = 0.25, **more: bool
) -> Plan:
    crops = small or [0] * len(labels)
    balanced = more.get("balanced", True)
    return Plan(labels=labels, small=crops, seed=seed, batch=4, accumulation=2, balanced=balanced, small_share=share)


def sampled(made: Plan, epoch: int) -> list[SampleId]:
    sizes = {(i, v): i % 5 for i, crops in enumerate(made.small) for v in range(crops + 1)}
    return [draw for step in made.epoch(epoch, sizes) for part in step for draw in part]


def test_rare_classes_are_seen_as_often_as_common_ones() -> None:
    counts = Counter(RARE[i] for i, _ in sampled(plan(RARE), 0))
    assert max(counts.values()) - min(counts.values()) <= 1
    plain = Counter(RARE[i] for i, _ in sampled(plan(RARE, balanced=False), 0))
    assert plain[0] > 80


def test_every_image_of_a_class_comes_before_any_comes_again() -> None:
    made = plan(RARE)
    seen = Counter(i for epoch in range(9) for i, _ in sampled(made, epoch) if RARE[i] == 0)
    assert set(seen) == set(range(90))
    assert max(seen.values()) - min(seen.values()) <= 1


def test_the_same_seed_samples_the_same_and_another_seed_another() -> None:
    assert sampled(plan(RARE), 3) == sampled(plan(RARE), 3)
    assert sampled(plan(RARE), 3) != sampled(plan(RARE), 4)
    assert sampled(plan(RARE), 3) != sampled(plan(RARE, seed=2), 3)


def test_crops_of_small_objects_double_their_weight_and_stay_under_a_quarter() -> None:
    few = [2 if i < 8 else 0 for i in range(100)]
    made = plan([0] * 50 + [1] * 50, few)
    sample_ids = sampled(made, 0)
    crops = [draw for draw in sample_ids if draw[1]]
    assert 6 <= len(crops) <= 9
    assert {i for i, _ in crops} <= set(range(8))
    all_small = plan([0] * 50 + [1] * 50, [2] * 100)
    for epoch in range(4):
        sample_ids = sampled(all_small, epoch)
        assert 0.2 < sum(variant > 0 for _, variant in sample_ids) / len(sample_ids) <= 0.25
    assert {variant for epoch in range(9) for _, variant in sampled(all_small, epoch)} == {0, 1, 2}
    assert not any(variant for _, variant in sampled(plan([0] * 50 + [1] * 50, few, share=0.0), 0))


def test_images_of_one_forward_are_alike_in_size() -> None:
    made = plan([0, 1] * 64)
    sizes = {(i, 0): 10 if i % 3 else 1000 for i in range(128)}
    steps = made.epoch(0, sizes)
    assert all(len(step) == 2 and all(len(part) == 4 for part in step) for step in steps)
    mixed = sum(len({sizes[draw] for draw in part}) > 1 for step in steps for part in step)
    assert mixed <= 2  # where the two sizes meet, in each of two windows


@pytest.mark.parametrize("steps", [1, 2, 40, 1000])
def test_the_rate_goes_up_then_down(steps: int) -> None:
    rates = [rate(step, steps, lr=1.0, warm_up=0.1) for step in range(steps)]
    assert all(0 < value <= 1 for value in rates)
    top = rates.index(max(rates))
    assert top <= max(1, steps // 10)
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps == 1000:
        assert rates[49] == pytest.approx(0.5)
        assert rates[550] == pytest.approx(0.5, abs=1e-3)
        assert rates[-1] < 1e-4
