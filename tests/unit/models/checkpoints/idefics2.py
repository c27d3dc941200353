"""A tiny Idefics2, and the inputs that transformers' own processor makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2Processor
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import widen
from tests.unit.models.tiny_models import tokenizer

LINEAR = 14  # seven projections in each of two layers
TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SHORTEST, LONGEST = 28, 98


def checkpoint(folder: Path) -> Path:
    made = tokenizer()
    made.add_tokens(list(TOKENS), special_tokens=True)
    made.chat_template = TEMPLATE
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": len(made), **heads}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    resampler = {"resampler_n_latents": 8, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16}
    config = Idefics2Config(
        text_config={"model_type": "mistral", "sliding_window": 4096, "pad_token_id": made.pad_token_id, **text},
        vision_config={"image_size": LONGEST, "patch_size": 14, **vision},
        perceiver_config={"num_key_value_heads": 1, **resampler},
        image_token_id=made.convert_tokens_to_ids("<image>"),
    )
    network = Idefics2ForConditionalGeneration(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    size = {"shortest_edge": SHORTEST, "longest_edge": LONGEST}
    Idefics2ImageProcessorPil(size=size, do_image_splitting=True).save_pretrained(folder)
    return folder


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    """What transformers' processor makes; both edges lowered to the budget, which all crops share."""
    splits = question.max_pixels >= 5 * SHORTEST**2 and min(image.size) > 1
    budget = question.max_pixels // (5 if splits else 1)
    longest = min(LONGEST, math.isqrt(int(budget * max(image.size) / min(image.size))))
    pixels = Idefics2ImageProcessorPil.from_pretrained(base.checkpoint.folder, do_image_splitting=splits)
    processor = Idefics2Processor(pixels, base.processor.tokenizer, image_seq_len=8)
    size = {"shortest_edge": min(SHORTEST, budget // longest), "longest_edge": longest}
    return dict(processor(text=prompt_text, images=[image], size=size, return_tensors="pt"))
