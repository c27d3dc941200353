"""Packing: never over the budget, the oldest always goes."""

from hypothesis import given
from hypothesis import strategies as st

from scanfleet.worker.device.packing import pack

TOKENS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(TOKENS, st.integers(1, 2000))
def test_a_forward_never_costs_more_than_the_budget(tokens: list[int], budget: int) -> None:
    chosen = pack(tokens, budget=budget)
    cost = len(chosen) * max(tokens[at] for at in chosen)
    assert cost <= budget or chosen == [0]


@given(TOKENS, st.integers(1, 2000))
def test_the_oldest_goes_and_nothing_goes_twice(tokens: list[int], budget: int) -> None:
    chosen = pack(tokens, budget=budget)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))


@given(TOKENS, st.integers(1, 2000))
def test_everything_is_scored_after_as_many_forwards_as_there_are_images(tokens: list[int], budget: int) -> None:
    waiting = list(tokens)
    forwards = 0
    while waiting:
        chosen = set(pack(waiting, budget=budget))
        waiting = [count for at, count in enumerate(waiting) if at not in chosen]
        forwards += 1
    assert forwards <= len(tokens)


@given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 3000))
def test_equal_images_fill_the_forward(size: int, n: int, budget: int) -> None:
    assert len(pack([size] * n, budget=budget)) == max(1, min(n, budget // size))


def test_images_of_like_size_go_together() -> None:
    assert pack([10, 200, 11, 190, 9, 10], budget=44) == [0, 2, 4, 5]
