"""Tiny random checkpoints of the true architectures, built from their config classes, with a tokenizer of
their own."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

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
