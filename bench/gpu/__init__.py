"""Qwen3-VL of 2, 4 and 8 billion random weights on one card: images/s, idle share, memory, share of the matrix rate.

`python -m bench gpu --json`; SCANFLEET_GPU_SIZES=2B,8B takes some. Skipped without a CUDA device.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.archive import draw
from bench.gpu.checkpoints import SIZES, save_checkpoint
from bench.report import Report, Skipped
from bench.stages import bench
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.load import Precision
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.model import LoadedModel

CHECK = "overlay"
SIDE = 448  # pixels
N_IMAGES = 512
RUNS = 3  # the median counts, after one run that does not
PRECISIONS: tuple[Precision, ...] = ("bf16", "nf4", "int8")
MATRIX = 8192  # side of the matrices that the card's rate is measured with


def run() -> Report:
    if not torch.cuda.is_available():
        raise Skipped("it needs a CUDA device")
    wanted = os.environ.get("SCANFLEET_GPU_SIZES", ",".join(SIZES)).split(",")
    peak = matrix_rate("cuda", MATRIX)
    figures: dict[str, object] = {"matrix_tflops": peak / 1e12}
    for name in wanted:
        with TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), SIZES[name], device="cuda")
            _free()
            for precision in PRECISIONS:
                found = measure(Path(folder), precision, device="cuda", n=N_IMAGES, side=SIDE, peak=peak)
                figures[f"{name}_{precision}"] = found
                _free()
    return Report(name=f"gpu: {torch.cuda.get_device_name()}", figures=figures)


def measure(
    folder: Path, precision: Precision, *, device: str, n: int, side: int, peak: float
) -> dict[str, float | None]:
    """Score n images of `side` pixels from bytes to verdicts, and return the figures. peak: FLOP/s of the device."""
    began = time.perf_counter()
    base = load_base(str(folder), precision=precision, device=device)
    load_seconds = time.perf_counter() - began
    model, files = LoadedModel(base), draw(n, side=side)
    cuda = base.device.type == "cuda"
    with TemporaryDirectory() as data:
        settings = load_settings(data_dir=Path(data), model=str(folder), device=device, log_level="error")
        with bench(settings, model, resolve_alone(model, load_check(CHECK), None)) as ours:
            ours.score(files)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            runs = sorted((ours.score(files) for _ in range(RUNS)), key=lambda each: each.wall_seconds)
    median = runs[RUNS // 2]
    rate = n / median.wall_seconds
    return {
        "images_per_s": rate,
        "device_idle_share": median.device_idle_share,
        "load_seconds": load_seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "matrix_share": rate * flops_of_an_image(base, side) / peak,
    }


def flops_of_an_image(base: BaseModel, side: int) -> float:
    """Two for each weight and token: of the vision tower for patches, of the language model for visual tokens alone.

    Attention, the question's tokens and the output head are left out, so that this is a lower bound.
    """
    config = base.network.config
    patches = (side / config.vision_config.patch_size) ** 2
    tokens = patches / config.vision_config.spatial_merge_size**2
    return 2 * (patches * _vision_weights(config) + tokens * _language_weights(config))


def _vision_weights(config: Any) -> float:
    vision = config.vision_config
    return float(vision.depth * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size))


def _language_weights(config: Any) -> float:
    text = config.text_config
    heads = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
    attention = text.hidden_size * text.head_dim * heads
    return float(text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size))


def matrix_rate(device: str, side: int, *, repeats: int = 20) -> float:
    """Return the FLOP/s of products of square bf16 matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.matmul(left, right)
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(left, right)
    _wait(device)
    return 2 * side**3 * repeats / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
