"""How unlike an image is, from features alone: what is promised for images of the same kind, and what is found."""

from pathlib import Path

import numpy as np
import pytest

from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.adapters.likeness import FILE, METRIC, MIN_IMAGES, Likeness, fitted, read_likeness
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.pocket.questions import OVERLAY

N_FEATURES = 96


def features(n: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Images of three kinds in a few directions of their own, and of a further kind `shift` away in another."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(0).normal(size=(3, N_FEATURES)) * 4
    loose = np.random.default_rng(1).normal(size=(12, N_FEATURES))
    images = kinds[rng.integers(0, 3, n)] + rng.normal(size=(n, 12)) @ loose + 0.3 * rng.normal(size=(n, N_FEATURES))
    images[:, 5] += shift
    return images.astype(np.float32)


def summary(images: np.ndarray, clusters: list[str] | None = None) -> Likeness:
    found = fitted(list(images), clusters or [str(at) for at in range(len(images))])
    assert found is not None
    return found


@pytest.mark.parametrize("n", [60, 200, 400])
def test_images_of_the_same_kind_are_rarely_unlike(n: int) -> None:
    shares = []
    for seed in range(10):
        found = summary(features(n, seed))
        shares.append(np.mean(np.array(found.unlike(features(2000, 100 + seed))) > found.limit))
    assert np.mean(shares) < 0.02


@pytest.mark.parametrize("n", [60, 200, 400])
def test_images_of_another_kind_are_unlike(n: int) -> None:
    found = summary(features(n, 3))
    assert np.mean(np.array(found.unlike(features(500, 4, shift=20.0))) > found.limit) > 0.95


def test_images_of_the_same_kind_spread_over_the_whole_scale() -> None:
    unlike = np.array(summary(features(400, 5)).unlike(features(4000, 6)))
    assert np.mean(unlike >= 0.9) == pytest.approx(0.1, abs=0.06)
    assert np.median(unlike) == pytest.approx(0.5, abs=0.15)


def test_look_alikes_count_once() -> None:
    images = np.repeat(features(60, 7), 5, axis=0)
    images += 1e-3 * np.random.default_rng(8).normal(size=images.shape).astype(np.float32)
    found = summary(images, [str(at // 5) for at in range(300)])
    assert found.n == 60
    others = features(1000, 9)
    assert np.mean(np.array(found.unlike(others)) > found.limit) < 0.05
    blind = summary(images)  # each finds its own copy: all others look unlike
    assert np.mean(np.array(blind.unlike(others)) > blind.limit) > 0.5


def test_too_few_images_give_no_summary() -> None:
    assert fitted(list(features(MIN_IMAGES - 1, 1)), [str(at) for at in range(MIN_IMAGES - 1)]) is None
    assert fitted([], []) is None


def card(**metrics: object) -> AdapterCard:
    return AdapterCard(name="a", question=OVERLAY, base_model="pocket", base_revision="r", metrics=metrics)


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = summary(features(100, 1))
    told = made.write(tmp_path)
    found = read_likeness(tmp_path, card(**{METRIC: told}), features=N_FEATURES)
    assert found is not None
    assert (found.n, found.sha256) == (100, told["sha256"])
    images = features(20, 2, shift=3.0)
    assert found.unlike(images) == made.unlike(images)
    with pytest.raises(ModelInvalid, match="another model"):
        read_likeness(tmp_path, card(**{METRIC: told}), features=N_FEATURES + 1)


def test_an_adapter_of_an_earlier_release_has_none(tmp_path: Path) -> None:
    assert read_likeness(tmp_path, card(), features=N_FEATURES) is None


def test_a_summary_that_the_card_does_not_name_is_refused(tmp_path: Path) -> None:
    told = summary(features(100, 1)).write(tmp_path)
    summary(features(100, 2)).write(tmp_path)
    with pytest.raises(ModelInvalid, match="not the file that the card names"):
        read_likeness(tmp_path, card(**{METRIC: told}), features=N_FEATURES)
    (tmp_path / FILE).unlink()
    with pytest.raises(ModelInvalid, match="missing"):
        read_likeness(tmp_path, card(**{METRIC: told}), features=N_FEATURES)
