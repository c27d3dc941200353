"""What the tiny LLaVA and LLaVA-NeXT have in common: a CLIP tower of 56 pixels, and the settings of their parts."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, LlamaTokenizer, SiglipVisionConfig

SIDE = 56  # of the vision tower's square, in pixels: 4 x 4 patches
LINEAR = 14  # seven projections in each of two layers


def vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        projection_dim=32,
    )


def siglip_vision() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        vision_use_head=False,
    )


def text(tokenizer: LlamaTokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
    }
