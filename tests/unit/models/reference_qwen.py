"""The way transformers documents for Qwen-VL: its PIL image processor, whole prompts, left padding, a mask, its own
positions. What the scorer does faster is compared with this."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from scanfleet.models.inputs.processing import VisionProcessor
from scanfleet.models.inputs.prompts import Turn


def left_padded(
    processor: VisionProcessor,
    turns: Sequence[Turn],
    images: Sequence[Image.Image],
    *,
    max_pixels: int,
    min_pixels: int,
) -> dict[str, torch.Tensor]:
    """Inputs for `model(**inputs)`, one turn and one image a row."""
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    reader = processor.reader
    pixels = dict(reader.image_processor(images=list(images), size=size, return_tensors="pt"))
    counts = (pixels["image_grid_thw"].prod(-1) // reader.image_processor.merge_size**2).tolist()
    image_id = reader.image_token_id
    rows = [turn.ids([image_id] * count) for turn, count in zip(turns, counts, strict=True)]
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), processor.tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        input_ids[i, width - len(row) :] = torch.tensor(row)
        attention_mask[i, width - len(row) :] = 1
    types = (input_ids == image_id).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "mm_token_type_ids": types, **pixels}
