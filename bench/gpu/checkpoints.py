"""Qwen3-VL of random weights in the released sizes: the same arithmetic, bytes and memory as the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.unit.models.tiny_models import image_processor, tokenizer

VOCABULARY = 151_936


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of the released config.json. vision_*: of the vision tower; taps: its layers that are read early."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vision_depth: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    taps: tuple[int, ...]
    vocabulary: int = VOCABULARY


_SMALL_TOWER = {"vision_depth": 24, "vision_hidden": 1024, "vision_heads": 16, "vision_intermediate": 4096}
SIZES = {
    "2B": Size(
        hidden=2048, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=6144,
        **_SMALL_TOWER, taps=(5, 11, 17),
    ),
    "4B": Size(
        hidden=2560, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=9728,
        **_SMALL_TOWER, taps=(5, 11, 17),
    ),
    "8B": Size(
        hidden=4096, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=12288,
        vision_depth=27, vision_hidden=1152, vision_heads=16, vision_intermediate=4304,
        taps=(8, 16, 24),
    ),
}  # fmt: skip


def save_checkpoint(folder: Path, size: Size, *, device: str) -> Path:
    """Save a model of this size with random bf16 weights, its tokenizer and its image processor."""
    made = tokenizer()
    names = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": max(size.vocabulary, len(made)),
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "head_dim": size.head_dim,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": _sections(size.head_dim),
                "mrope_interleaved": True,
            },
            "eos_token_id": made.eos_token_id,
            "bos_token_id": None,
            "pad_token_id": made.pad_token_id,
        },
        vision_config={
            "depth": size.vision_depth,
            "hidden_size": size.vision_hidden,
            "out_hidden_size": size.hidden,
            "num_heads": size.vision_heads,
            "intermediate_size": size.vision_intermediate,
            "deepstack_visual_indexes": list(size.taps),
            "num_position_embeddings": 2304,
        },
        **{name: made.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    torch.manual_seed(0)
    with torch.device(device):
        network = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    for parameter in network.parameters():  # the default initialisation is so small that every image scores alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    image_processor(16).save_pretrained(folder)
    return folder


def _sections(head_dim: int) -> list[int]:
    """Split half of a head's dimensions over time, height and width, as 24, 20, 20 of 64."""
    half = head_dim // 2
    side = half * 5 // 16
    return [half - 2 * side, side, side]
