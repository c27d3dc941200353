"""The ResNet: it learns what is easy, repeats itself, starts from a folder, and is not surer than it should be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from scanfleet.models.baselines import Fitted, fit
from scanfleet.models.baselines.held_out import hold_out, temperature
from scanfleet.models.errors import ModelInvalid
from tests.unit.models.baselines.gratings import NAMES, accuracy, gratings

TINY = {"width": 8, "side": 48, "epochs": 12, "batch": 12, "lr": 0.05, "flip": False}


def _fitted(*, seed: int = 0, names: tuple[str, ...] = NAMES, **options: object) -> Fitted:
    return fit("resnet", *gratings(60, seed=1), names=names, seed=seed, options={**TINY, **options})


def test_it_tells_stripes_apart() -> None:
    pictures, labels = gratings(60, seed=2)
    assert accuracy(_fitted().log_odds(pictures), labels) >= 0.9


def test_a_seed_gives_the_same_answers_and_leaves_other_dice_alone() -> None:
    pictures, _ = gratings(6, seed=2)
    torch.manual_seed(5)
    first = _fitted(epochs=2).log_odds(pictures)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert np.array_equal(first, _fitted(epochs=2).log_odds(pictures))
    assert not np.array_equal(first, _fitted(epochs=2, seed=1).log_odds(pictures))


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    pictures, _ = gratings(40, seed=2)
    fitted = _fitted(epochs=1)
    alone = np.concatenate([fitted.log_odds([picture]) for picture in pictures[30:]])
    assert np.allclose(fitted.log_odds(pictures)[30:], alone, atol=1e-4)


def test_it_starts_from_the_weights_of_a_folder(tmp_path: Path) -> None:
    """With no rate to learn at, the body stays that of the folder, whatever the seed."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
    torch.manual_seed(3)
    body = ResNetModel(config)
    body.save_pretrained(tmp_path / "weights")
    fitted = _fitted(weights=str(tmp_path / "weights"), epochs=1, lr=0.0)
    kept = fitted.network.module["body"].state_dict()  # type: ignore[attr-defined]
    assert torch.equal(kept["embedder.embedder.convolution.weight"], body.embedder.embedder.convolution.weight)


def test_a_class_without_pictures_is_never_the_likeliest() -> None:
    odds = _fitted(names=("none", *NAMES), epochs=1).log_odds(gratings(6, seed=2)[0])
    assert odds.shape == (6, 4)
    assert (odds[:, 0] < odds[:, 1:].max(axis=1)).all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"depth": 19}, "depth = 19 must be one of 18, 34, 50"),
        ({"epoch": 1}, "no option 'epoch'"),
        ({"weights": "nowhere"}, "nowhere holds no config.json"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelInvalid, match=complaint):
        fit("resnet", *gratings(6, seed=1), names=NAMES, seed=0, options=options)


def test_a_fifth_of_each_class_is_held_out_and_none_of_few() -> None:
    targets = np.array([0] * 20 + [1] * 10)
    learn, held = hold_out(targets, seed=1)
    assert np.bincount(targets[held]).tolist() == [4, 2]
    assert sorted([*learn, *held]) == list(range(30))
    assert [len(part) for part in hold_out(np.array([0] * 20 + [1] * 4), seed=1)] == [24, 0]


def test_a_sure_network_that_errs_is_cooled_and_one_that_does_not_is_left_alone() -> None:
    logits = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    right, wrong = np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1])
    assert temperature(logits, right) == pytest.approx(1.0, abs=0.01)
    cooled = temperature(logits, wrong)
    assert 1 / (1 + np.exp(-9 / cooled)) == pytest.approx(0.75, abs=0.01)  # as often as it is right
    assert temperature(logits[:0], right[:0]) == 1.0
