"""A tiny LLaVA-1.5: CLIP tower, Llama, the image first in the turn; the reference is its own processor class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import widen
from tests.unit.models.checkpoints.llama_tokens import tokenizer
from tests.unit.models.checkpoints.llava_common import LINEAR, SIDE, siglip_vision, text, vision

__all__ = ["LINEAR", "TEMPLATE", "checkpoint", "reference_inputs"]

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def checkpoint(folder: Path, *, siglip: bool = False, do_pad: bool = False) -> Path:
    """siglip: a tower without a class token, all of whose output is used; do_pad: bars instead of a cut."""
    made = tokenizer(TEMPLATE)
    config = LlavaConfig(
        vision_config=siglip_vision() if siglip else vision(),
        text_config=LlamaConfig(**text(made)),
        image_token_index=made.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_select_strategy="full" if siglip else "default",
    )
    network = LlavaForConditionalGeneration(config)
    widen(network)
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    _image_processor(siglip=siglip, do_pad=do_pad).save_pretrained(folder)
    return folder


def _image_processor(*, siglip: bool, do_pad: bool) -> Any:
    square = {"height": SIDE, "width": SIDE}
    if siglip:
        return SiglipImageProcessorPil(size=square)
    if do_pad:
        return LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square, do_pad=True)
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    config = base.network.config
    theirs = LlavaProcessor(
        base.processor.reader.image_processor,
        base.processor.tokenizer,
        patch_size=14,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_config.model_type == "clip_vision_model"),
    )
    return dict(theirs(images=image, text=prompt_text, return_tensors="pt"))
