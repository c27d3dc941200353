"""The measurement on a card, tried on a processor with a small model of the same architecture."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu.checkpoints import SIZES, save_checkpoint
from bench.report import Skipped

TINY = replace(
    SIZES["2B"],
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    vocabulary=1,
    vision_depth=2,
    vision_hidden=32,
    vision_heads=2,
    vision_intermediate=64,
    taps=(0,),
)


def test_it_measures_from_bytes_to_verdicts(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, TINY, device="cpu")
    found = gpu.measure(folder, "fp32", device="cpu", n=4, side=64, peak=gpu.matrix_rate("cpu", 64))
    assert found["images_per_s"] is not None
    assert found["images_per_s"] > 0
    assert found["matrix_share"] is not None
    assert 0 < found["matrix_share"] < 1
    assert found["peak_gib"] is None


def test_the_arithmetic_of_an_image_is_that_of_its_weights(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, TINY, device="cpu")
    base = gpu.load_base(str(folder), precision="fp32", device="cpu")
    language = sum(
        parameter.numel()
        for name, parameter in base.network.named_parameters()
        if ".layers." in name and "language" in name and parameter.ndim > 1
    )
    vision = sum(
        parameter.numel()
        for name, parameter in base.network.named_parameters()
        if ".blocks." in name and parameter.ndim > 1
    )
    assert gpu.flops_of_an_image(base, 64) == 2 * (16 * vision + 4 * language)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a card")
def test_without_a_card_it_is_skipped() -> None:
    with pytest.raises(Skipped, match="CUDA"):
        gpu.run()
