"""The forest over gradients: it learns what is easy, repeats itself, and states probabilities."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from scanfleet.models.baselines import NAMES as BASELINES
from scanfleet.models.baselines import Fitted, fit
from scanfleet.models.errors import ModelInvalid
from tests.unit.models.baselines.gratings import NAMES, accuracy, gratings

OPTIONS = {"trees": 40, "side": 64}


def _fitted(*, seed: int = 0, n: int = 60) -> Fitted:
    pytest.importorskip("skimage")
    return fit("hog-forest", *gratings(n, seed=1), names=NAMES, seed=seed, options=OPTIONS)


def test_it_tells_stripes_apart() -> None:
    pictures, labels = gratings(60, seed=2)
    assert accuracy(_fitted().log_odds(pictures), labels) >= 0.9


def test_a_seed_gives_the_same_answers_and_another_seed_others() -> None:
    pictures, _ = gratings(6, seed=2)
    first = _fitted().log_odds(pictures)
    assert np.array_equal(first, _fitted().log_odds(pictures))
    assert not np.array_equal(first, _fitted(seed=1).log_odds(pictures))


def test_labels_without_a_pattern_get_no_confident_answer() -> None:
    """Without calibration on what trees had not seen, a forest is sure of what it learnt by heart."""
    pytest.importorskip("skimage")
    pictures, labels = gratings(90, seed=1)
    drawn = np.random.default_rng(0).permutation(labels).tolist()
    odds = fit("hog-forest", pictures, drawn, names=NAMES, seed=0, options=OPTIONS).log_odds(pictures)
    assert np.exp(odds).max(axis=1).mean() < 0.5


def test_a_class_without_pictures_is_never_the_likeliest() -> None:
    pytest.importorskip("skimage")
    pictures, labels = gratings(60, seed=1)
    odds = fit("hog-forest", pictures, labels, names=("none", *NAMES), seed=0, options=OPTIONS).log_odds(pictures)
    assert odds.shape == (60, 4)
    assert (odds[:, 0] < odds[:, 1:].max(axis=1)).all()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ModelInvalid, match=r"hog-forest needs skimage.*\[baselines\]"):
        fit("hog-forest", *gratings(6, seed=1), names=NAMES, seed=0, options=OPTIONS)


def test_hog_forest_is_listed() -> None:
    assert "hog-forest" in BASELINES


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tree": 3}, "no option 'tree'"),
        ({"trees": 0}, "trees = 0 must be 1 or more"),
        ({"trees": "3"}, "must be a int"),
        ({"side": 16}, "must hold two cells"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelInvalid, match=complaint):
        fit("hog-forest", *gratings(6, seed=1), names=NAMES, seed=0, options=options)


@pytest.mark.parametrize(
    ("name", "labels", "complaint"),
    [
        ("no-forest", ["up", "across"], "no baseline is named"),
        ("hog-forest", ["up", "down"], "'down' is none of"),
        ("hog-forest", ["up", "up"], "two labels at least"),
        ("hog-forest", ["up"], "2 pictures with 1 labels"),
    ],
)
def test_wrong_tasks_are_refused(name: str, labels: list[str], complaint: str) -> None:
    pictures, _ = gratings(2, seed=1)
    with pytest.raises(ModelInvalid, match=complaint):
        fit(name, pictures, labels, names=NAMES, seed=0, options={})
