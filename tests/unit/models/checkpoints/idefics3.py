"""A tiny Idefics3, and the inputs that transformers' own processor makes; SmolVLM has the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import widen
from tests.unit.models.tiny_models import tokenizer

LINEAR = 14  # seven projections in each of two layers
SIDE, LARGEST = 56, 4  # pixels of a tile, tiles along the longer side
TOKENS = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def checkpoint(
    folder: Path,
    *,
    config_class: type[Any] = Idefics3Config,
    network_class: type[Any] = Idefics3ForConditionalGeneration,
    processor_class: type[Any] = Idefics3ImageProcessorPil,
) -> Path:
    made = tokenizer()
    places = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    made.add_tokens([*TOKENS, *places], special_tokens=True)
    made.chat_template = TEMPLATE
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": len(made), **heads}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = config_class(
        text_config={"model_type": "llama", "pad_token_id": made.pad_token_id, **text},
        vision_config={"image_size": SIDE, "patch_size": 14, **vision},
        scale_factor=2,
        image_token_id=made.convert_tokens_to_ids("<image>"),
    )
    network = network_class(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    pixels = processor_class(size={"longest_edge": LARGEST * SIDE}, max_image_size={"longest_edge": SIDE})
    pixels.save_pretrained(folder)
    return folder


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    """What transformers' processor makes at the largest size whose tiles the budget holds."""
    # SmolVLM's own processor class differs from this one in its videos, which need torchvision.
    processor = Idefics3Processor(base.processor.reader.image_processor, base.processor.tokenizer, image_seq_len=4)
    for tiles in range(LARGEST, 0, -1):
        size = {"longest_edge": tiles * SIDE}
        inputs = dict(processor(text=prompt_text, images=[image], size=size, return_tensors="pt"))
        if inputs["pixel_values"].shape[1] * SIDE**2 <= question.max_pixels:
            break
    return inputs
