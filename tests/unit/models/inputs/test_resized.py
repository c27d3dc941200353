"""Images that a decoder has resized are prepared to the same bits as images that are resized here."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from scanfleet.images.fit import Fit
from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import VisionProcessor, load_processor
from scanfleet.models.types import Resized
from tests.unit.models import tiny_models as tiny

BUDGETS = ((200_704, None), (200_704, 4096), (50_176, 50_176), (3136, None))  # most and least pixels


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> VisionProcessor:
    return load_processor(tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen2_vl"), FAMILIES["qwen2_vl"])


def fit_of(processor: VisionProcessor, most: int, least: int | None) -> Fit:
    resizing = processor.reader.resizing(max_pixels=most, min_pixels=least)
    assert resizing is not None
    return Fit(*resizing)


@pytest.mark.parametrize(("most", "least"), BUDGETS)
@pytest.mark.parametrize("size", [(448, 448), (301, 77), (20, 30), (640, 1200), (1, 190)])
def test_both_ways_give_the_same_bits(
    processor: VisionProcessor, size: tuple[int, int], most: int, least: int | None
) -> None:
    image = tiny.picture(*size, 1)
    fitted = fit_of(processor, most, least).size(size)
    assert fitted is not None
    elsewhere = image.resize(fitted, Image.Resampling(processor.reader.image_processor.resample))
    resized = Resized(rgb=bytearray(elsewhere.tobytes()), size=fitted, original_size=size)
    here = processor.prepare(image, max_pixels=most, min_pixels=least)
    there = processor.prepare(resized, max_pixels=most, min_pixels=least)
    assert torch.equal(here.pixels, there.pixels)
    assert replace(here, pixels=there.pixels).__dict__ == there.__dict__


def test_a_decoder_chooses_the_size_that_a_reader_chooses(processor: VisionProcessor) -> None:
    dice = random.Random(3)
    for _ in range(2000):
        size = (round(2 ** dice.uniform(0, 12)), round(2 ** dice.uniform(0, 12)))
        most, least = dice.choice(BUDGETS)
        fitted = fit_of(processor, most, least).size(size)
        if fitted is None:
            with pytest.raises(ImageUnsuitable):
                processor.prepare(Image.new("RGB", size), max_pixels=most, min_pixels=least)
            continue
        blank = Resized(rgb=bytearray(3 * fitted[0] * fitted[1]), size=fitted, original_size=size)
        assert processor.prepare(blank, max_pixels=most, min_pixels=least).resized_size == fitted


def test_another_size_than_the_reader_s_own_is_no_image_s_fault(processor: VisionProcessor) -> None:
    wrong = Resized(rgb=bytearray(3 * 56 * 56), size=(56, 56), original_size=(448, 448))
    with pytest.raises(AssertionError, match="not to"):
        processor.prepare(wrong, max_pixels=200_704, min_pixels=None)
