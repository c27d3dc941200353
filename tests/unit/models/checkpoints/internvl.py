"""A tiny InternVL: its own tower, Qwen2, the image where the question has it; the reference is its own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    Qwen2Config,
    Qwen2Tokenizer,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import widen

SIDE = 56  # of a tile, in pixels: 4 x 4 patches, which the pixel shuffle makes 2 x 2
LINEAR = 14  # seven projections in each of two layers
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def checkpoint(folder: Path) -> Path:
    tiny_models.tokenizer().save_pretrained(folder)
    made = Qwen2Tokenizer.from_pretrained(folder, extra_special_tokens=TOKENS)
    made.chat_template = TEMPLATE
    text = {
        "vocab_size": len(made),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": made.eos_token_id,
    }
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=14
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**text),
        image_token_id=made.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    network = InternVLForConditionalGeneration(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


class WithoutVideo(InternVLProcessor):
    """The video processor, which needs torchvision, is the only part left out."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    theirs = WithoutVideo(base.processor.reader.image_processor, base.processor.tokenizer, image_seq_length=4)
    most = max(1, question.max_pixels // SIDE**2 - 1)
    return dict(theirs(images=image, text=prompt_text, images_kwargs={"max_patches": most}, return_tensors="pt"))
