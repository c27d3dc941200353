"""The pocket model: a Qwen3-VL of a few million parameters trained on generated images only, shipped in the repository.

weights/       config, tokenizer, image processor, bf16 weights; adapters/overlay, baggage and razor
scenes/        the seeded image generators, and pictures with one small part
generate.py    writes an archive with known truth   recipe.toml   every number of the training

`tools/pocket` makes weights/ from scratch, `bench/pocket.py` measures it on fresh images.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Return the folder of the shipped checkpoint, which transformers' from_pretrained can load."""
    return Path(__file__).parent / "weights"


def adapter_folder(check: str) -> Path:
    """Return the folder of the shipped adapter for a check: "overlay", "baggage" or "razor"."""
    return folder() / "adapters" / check
