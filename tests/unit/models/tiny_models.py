"""Tiny random checkpoints of the true architectures, built from their config classes, with a tokenizer of
their own."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

torch.set_num_threads(1)  # these models gain nothing from threads and lose much on a busy machine

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*, pairs: bool = True) -> Qwen2Tokenizer:
    """A byte-level BPE: single bytes, " A".." z" and, with `pairs`, "AA".."ZZ"."""
    merges = [("Ġ", letter) for letter in ascii_uppercase + ascii_lowercase]
    if pairs:
        merges += [(a, b) for a in ascii_uppercase for b in ascii_uppercase]
    pieces = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    assert all(digit in pieces for digit in digits)
    made = Qwen2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    made.pad_token = made.eos_token = "<|endoftext|>"
    made.chat_template = TEMPLATE
    return made


def image_processor(patch_size: int = 14) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(patch_size=patch_size, merge_size=2, temporal_patch_size=2)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Seeded noise over a gradient, so that no two pictures and no two regions look alike."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 128, width)[None, :, None] + np.linspace(0, 64, height)[:, None, None]
    noise = rng.uniform(0, 63, (height, width, 3))
    return Image.fromarray((ramp + noise).astype(np.uint8))


def _text(**extra: Any) -> dict[str, Any]:
    made = tokenizer()
    return {
        "vocab_size": len(made),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3], **extra},
        "eos_token_id": made.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": made.pad_token_id,
    }


def _config(family: str) -> tuple[type[Any], Any]:
    vision: dict[str, Any]
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
        return Qwen2VLForConditionalGeneration, Qwen2VLConfig(text_config=_text(), vision_config=vision, **_ids())
    if family == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
        return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=_text(), vision_config=vision, **_ids())
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = _text(mrope_interleaved=True) | {"head_dim": 16}
    return Qwen3VLForConditionalGeneration, Qwen3VLConfig(text_config=text, vision_config=vision, **_ids())


def _ids() -> dict[str, int]:
    made = tokenizer()
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: made.convert_tokens_to_ids(token) for name, token in names.items()}


def checkpoint(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Save a random model of `family` with tokenizer, template and image processor, as a released one would be."""
    kind, config = _config(family)
    torch.manual_seed(seed)
    network = kind(config)
    for parameter in network.parameters():  # the default initialisation is so small that every image scores alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    image_processor(16 if family == "qwen3_vl" else 14).save_pretrained(folder)
    return folder
