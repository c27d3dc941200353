"""The base alone with its menu turned, against plain scorers and arithmetic spelled out, on every family."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from scanfleet.models import factory, pocket
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import OVERLAY
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.scoring.rotated import MOST_ORDERS, RotatedScorer, rotations
from scanfleet.models.types import Question, Reading
from tests.unit.models import tiny_models as tiny
from tests.unit.models.checkpoints import TINY

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"none": "no text"},
    max_pixels=200 * 200,
)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> object:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda family: load_base(str(TINY[family].checkpoint(root / family)), precision="fp32", device="cpu"))


def read(scorer: PrefillScorer) -> list[Reading]:
    return scorer.score([scorer.prepare(tiny.picture(w, h, 3)) for w, h in ((100, 100), (300, 180), (64, 200))])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_turning_the_menu_changes_nothing(load, family: str) -> None:  # type: ignore[no-untyped-def]
    base: BaseModel = load(family)
    turned = [replace(QUESTION, labels=order) for order in rotations(QUESTION)]
    assert [order.labels[0] for order in turned] == ["overlay", "natural", "none"]
    plain = [[reading.margin for reading in read(factory.scorer(base, each))] for each in turned]
    assert np.ptp(plain, axis=0).min() > 0.01, "a model without a leaning would prove nothing"
    margins = [[reading.margin for reading in read(factory.scorer(base, each, rotated=True))] for each in turned]
    assert margins[1:] == pytest.approx(np.array([margins[0]] * 2), abs=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_are_the_mean_of_the_log_shares_of_all_orders(load, family: str) -> None:  # type: ignore[no-untyped-def]
    base: BaseModel = load(family)
    shares, masses = [], []
    for order in (("overlay", "natural", "none"), ("natural", "none", "overlay"), ("none", "overlay", "natural")):
        readings = read(factory.scorer(base, replace(QUESTION, labels=order)))
        logits = np.array([reading.logits for reading in readings])[:, [order.index(name) for name in QUESTION.labels]]
        shares.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        masses.append([reading.mass for reading in readings])
    expected = np.mean(shares, axis=0)
    found = read(factory.scorer(base, QUESTION, rotated=True))
    assert np.array([reading.logits for reading in found]) == pytest.approx(expected, abs=1e-4)
    margins = expected[:, 0] - np.log(np.exp(expected[:, 1:]).sum(1))
    assert [reading.margin for reading in found] == pytest.approx(margins, abs=1e-4)
    assert [reading.mass for reading in found] == pytest.approx(np.mean(masses, axis=0), abs=1e-5)


def test_of_two_labels_both_orders_give_the_same_answer() -> None:
    base = load_base("pocket", precision="fp32", device="cpu")
    yes_no = Question(name="q", prompt="Is there text in this image?", labels=("yes", "no"), flags=frozenset({"yes"}))
    margins = [
        read(factory.scorer(base, replace(yes_no, labels=order), rotated=True)) for order in permutations(("yes", "no"))
    ]
    first, second = ([reading.margin for reading in each] for each in margins)
    assert first == pytest.approx(second, abs=1e-4)


def test_an_adapter_and_its_comparison_are_read_in_the_own_order_alone() -> None:
    base = load_base("pocket", precision="fp32", device="cpu")
    folder = pocket.adapter_folder("overlay")
    asked = OVERLAY
    plain, served = factory.scorer(base, asked, folder), factory.scorer(base, asked, folder, rotated=True)
    assert not isinstance(served, RotatedScorer)
    assert read(served) == read(plain)
    assert not isinstance(factory.scorer(base, asked), RotatedScorer)


def test_many_labels_are_turned_a_few_times_and_letters_never() -> None:
    many = replace(QUESTION, labels=tuple(f"label {n}" for n in range(102)), flags=frozenset(), descriptions={})
    orders = rotations(many)
    assert [order[0] for order in orders] == ["label 0", "label 20", "label 40", "label 61", "label 81"]
    assert len(orders) == MOST_ORDERS
    letters = replace(QUESTION, labels=("A", "B"), flags=frozenset("A"), descriptions={})
    assert rotations(letters) == [("A", "B")]
    assert len(rotations(replace(letters, descriptions={"A": "grade A", "B": "grade B"}))) == 2


def test_no_rows_give_no_readings(tmp_path: Path) -> None:
    base = load_base(str(tiny.checkpoint(tmp_path / "t", "qwen3_vl")), precision="fp32", device="cpu")
    assert factory.scorer(base, QUESTION, rotated=True).score([]) == []
