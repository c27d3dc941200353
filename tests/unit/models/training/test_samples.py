"""Enlarged crops of small objects, and mixed images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanfleet.models.training.data.mixing import Mix
from scanfleet.models.training.data.samples import CROPS, enlarged, n_crops
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Box


def example(*boxes: tuple[float, float, float, float], key: str = "k") -> Example:
    made = tuple(Box(x0=x0, y0=y0, x1=x1, y1=y1, label="gun") for x0, y0, x1, y1 in boxes)
    return Example(key=key, path=Path("nowhere"), label=0, cluster="c", boxes=made)


def with_mark(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), box)
    return image


@pytest.mark.parametrize("box", [(0, 0, 12, 9), (188, 90, 200, 100), (90, 40, 110, 52), (0, 45, 8, 60)])
def test_a_crop_shows_the_whole_object_larger_wherever_it_lies(box: tuple[int, int, int, int]) -> None:
    image = with_mark((200, 100), box)
    whole = (np.asarray(image)[..., 0] > 128).sum()
    for variant in range(1, CROPS + 1):
        crop = enlarged(image, example(box), variant, 0.05)
        red = np.asarray(crop)[..., 0] > 128
        assert max(crop.size) == 200
        scale = red.any(0).sum() / (box[2] - box[0])
        assert scale > 2
        assert red.sum() == pytest.approx(whole * scale**2, rel=0.1)  # nothing of it was cut off


def test_crops_of_one_image_differ_and_come_again_the_same() -> None:
    image = Image.effect_noise((200, 100), 60).convert("RGB")
    box = (90, 40, 110, 52)
    first, second = (np.asarray(enlarged(image, example(box), v, 0.05)) for v in (1, 2))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.asarray(enlarged(image, example(box), 1, 0.05)))
    assert not np.array_equal(first, np.asarray(enlarged(image, example(box, key="other"), 1, 0.05)))


def test_only_small_objects_are_enlarged() -> None:
    assert n_crops(example((0, 0, 10, 10)), (200, 100), 0.05) == CROPS
    assert n_crops(example((0, 0, 100, 100)), (200, 100), 0.05) == 0
    assert n_crops(example((5, 5, 5, 9)), (200, 100), 0.05) == 0
    assert n_crops(example(), (200, 100), 0.05) == 0
    assert n_crops(example((0, 0, 100, 100), (0, 0, 9, 9)), (200, 100), 0.05) == CROPS


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_image_holds_as_much_of_each_as_its_share_says(kind: str) -> None:
    red, blue = Image.new("RGB", (100, 60), (255, 0, 0)), Image.new("RGB", (30, 90), (0, 0, 255))
    for share in (0.0, 0.3, 1.0):
        mix = Mix(kind=kind, share=share, corner=(0.3, 0.9))  # type: ignore[arg-type]
        mean = np.asarray(mix.of(red, blue)).mean((0, 1))
        assert mean == pytest.approx([255 * share, 0, 255 * (1 - share)], abs=4)
    assert Mix.sample("mixup", [1, 2]) == Mix.sample("mixup", [1, 2]) != Mix.sample("mixup", [1, 3])
    assert mix.partners([1, 2, 3]) == [2, 3, 1]
