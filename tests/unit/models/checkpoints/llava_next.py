"""A tiny LLaVA-NeXT: CLIP tower, Mistral, the image first in the turn; the reference is its own processor class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import llava, widen
from tests.unit.models.checkpoints.llama_tokens import tokenizer
from tests.unit.models.checkpoints.llava_common import LINEAR, SIDE, text, vision

__all__ = ["LINEAR", "PINPOINTS", "TEMPLATE", "checkpoint", "reference_inputs"]

TEMPLATE = (
    "{% for m in messages %}{{ '[INST] ' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% endfor %}"
)
# Height and width, as released checkpoints have them, for a tower of 56 instead of 336 pixels.
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]


def checkpoint(folder: Path, *, vicuna: bool = False) -> Path:
    """vicuna: a Llama and its template instead of a Mistral."""
    made = tokenizer(llava.TEMPLATE if vicuna else TEMPLATE)
    language = LlamaConfig(**text(made)) if vicuna else MistralConfig(**text(made), sliding_window=None)
    config = LlavaNextConfig(
        vision_config=vision(),
        text_config=language,
        image_token_index=made.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )
    network = LlavaNextForConditionalGeneration(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=square, image_grid_pinpoints=PINPOINTS
    )
    processor.save_pretrained(folder)
    return folder


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    theirs = LlavaNextProcessor(
        base.processor.reader.image_processor,
        base.processor.tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return dict(theirs(images=image, text=prompt_text, return_tensors="pt"))
