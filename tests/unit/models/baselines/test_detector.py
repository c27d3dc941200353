"""The detector: its targets, its surest boxes, and what it learns from easy ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import YolosConfig, YolosForObjectDetection

from scanfleet.models.baselines import Fitted, fit
from scanfleet.models.baselines.detector import _Network, _target
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Box
from tests.unit.models.baselines.shapes import NAMES, shapes

TINY = {"width": 16, "side": 32, "epochs": 1, "batch": 6, "queries": 4, "lr": 4e-3}


def _fitted(n: int = 12, *, seed: int = 0, **options: object) -> Fitted:
    pictures, labels, boxes = shapes(n, seed=1)
    return fit("detector", pictures, labels, names=NAMES, seed=seed, options={**TINY, "boxes": boxes, **options})


@pytest.mark.slow
def test_it_tells_squares_by_their_colour() -> None:
    pictures, labels, _ = shapes(30, seed=2)
    odds = _fitted(60, width=32, epochs=15, batch=12, queries=6).log_odds(pictures)
    right = [NAMES[best] == label for best, label in zip(odds.argmax(axis=1), labels, strict=True)]
    assert np.mean(right) >= 0.8


def test_a_seed_gives_the_same_scores_and_another_seed_others() -> None:
    """After a few steps the boxes hardly tell pictures apart, but each training its own way."""
    pictures, _, _ = shapes(3, seed=2)
    one, again, other = (_fitted(seed=seed).network.scores(pictures) for seed in (0, 0, 1))  # type: ignore[attr-defined]
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_targets_are_centres_and_sides_and_turn_with_the_picture() -> None:
    box = Box(x0=10, y0=20, x1=30, y1=60, label="blue")
    plain = _target([box], (100, 80), ("red", "blue"), flip=False, device="cpu")
    turned = _target([box], (100, 80), ("red", "blue"), flip=True, device="cpu")
    assert plain["class_labels"].tolist() == [1]
    assert plain["boxes"][0].tolist() == pytest.approx([0.2, 0.5, 0.2, 0.5])
    assert turned["boxes"][0].tolist() == pytest.approx([0.8, 0.5, 0.2, 0.5])
    assert _target([], (100, 80), ("red",), flip=True, device="cpu")["boxes"].shape == (0, 4)


class Told(torch.nn.Module):
    """A detector that always answers these logits of two boxes and two kinds; YOLOS also has a class for nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.config = type("Config", (), {"model_type": kind})()
        self.logits = torch.tensor([[[2.0, -1.0], [0.0, 1.0]]])
        if kind == "yolos":
            self.logits = torch.cat([self.logits, torch.tensor([[[0.0], [0.0]]])], dim=-1)

    def forward(self, pixel_values: torch.Tensor) -> "Told":
        return self


@pytest.mark.parametrize("kind", ["rt_detr", "yolos"])
def test_a_picture_scores_as_its_surest_box(kind: str) -> None:
    (found,) = _Network(model=Told(kind), side=32, device="cpu").scores(shapes(1, seed=1)[0])
    if kind == "rt_detr":
        assert found == pytest.approx([2.0, 1.0])
    else:  # against all other classes
        assert found == pytest.approx([2 - np.log(np.exp(-1) + 1), 1 - np.log(2)])


def test_a_detector_of_a_folder_gets_the_classes_of_the_labels(tmp_path: Path) -> None:
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=16, num_detection_tokens=4, num_labels=7,
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(tmp_path / "yolos")
    fitted = _fitted(weights=str(tmp_path / "yolos"))
    assert fitted.network.model.config.model_type == "yolos"  # type: ignore[attr-defined]
    assert fitted.log_odds(shapes(3, seed=2)[0]).shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"boxes": []}, "option boxes must hold those of each of the 12 pictures"),
        ({"boxes": [[]] * 12}, "no picture has a box"),
        ({"boxes": [[Box(x0=0, y0=0, x1=1, y1=1, label="green")]] * 12}, "boxes with labels among red, blue, none"),
        ({"width": 20}, "width must be a multiple of 16"),
        ({"weights": "nowhere"}, "nowhere holds no config.json"),
        ({"depth": 3}, "no option 'depth'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelInvalid, match=complaint):
        _fitted(**options)
