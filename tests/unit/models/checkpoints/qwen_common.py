"""The reference of the three Qwen families: their image processor, and the whole prompt with its token types."""

from __future__ import annotations

from typing import Any

from PIL import Image

from scanfleet.models.network.base import BaseModel
from scanfleet.models.types import Question

LINEAR = 14  # seven projections in each of two layers


def reference_inputs(base: BaseModel, prompt_text: str, image: Image.Image, question: Question) -> dict[str, Any]:
    reader = base.processor.reader
    least = question.min_pixels or reader.image_processor.size["shortest_edge"]
    size = {"shortest_edge": least, "longest_edge": question.max_pixels}
    pixels = reader.image_processor(images=image, size=size, return_tensors="pt")
    merged = (pixels["image_grid_thw"].prod(-1) // reader.image_processor.merge_size**2).tolist()
    text, *others = prompt_text.split(reader.image_token)
    for count, part in zip(merged, others, strict=True):
        text += reader.image_token * count + part
    ids = base.processor.tokenizer(text, return_tensors="pt").input_ids
    return {"input_ids": ids, "mm_token_type_ids": (ids == reader.image_token_id).long(), **pixels}
