"""Images and prompts to model inputs, without torchvision.

transformers' Qwen-VL processor classes insist on a video processor, which needs torchvision. Here the
checkpoint's tokenizer, its PIL image processor and its chat template are composed directly; the image
placeholder is expanded to `grid.prod() / merge**2` tokens, as the processor classes do. Tests compare every
tensor with theirs.

Knows tensors on the host; knows nothing of models or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

from models.errors import ImageUnsuitable, ModelInvalid, one_line, unreadable
from models.prompts import Prompt, Turn, make_prompt
from models.types import Question


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """One image, resized, normalised and cut into patches on the host.

    pixel_values: (patches, channels * temporal_patch * patch²) float32.
    grid: (t, h, w) in patches; the resized image is (h * patch, w * patch) pixels.
    visual_tokens: t * h * w / merge², what the language model reads.
    original_size: (width, height) of the image that was given, in pixels.
    """

    pixel_values: torch.Tensor
    grid: tuple[int, int, int]
    visual_tokens: int
    original_size: tuple[int, int]


class VisionProcessor:
    """Tokenizer, PIL image processor and chat template of one checkpoint.

    `prepare` only reads state, so that many threads may share one processor.
    """

    def __init__(self, *, tokenizer: Any, image_processor: Any, chat_template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.chat_template = chat_template
        self.patch_size: int = image_processor.patch_size
        self.merge_size: int = image_processor.merge_size

    def prompt(self, question: Question) -> Prompt:
        """Render the question; raises ModelInvalid when its labels cannot be coded in single tokens."""
        return make_prompt(self.tokenizer, question, chat_template=self.chat_template)

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        """Resize within the pixel budget (aspect ratio kept, sides multiples of patch * merge) and cut into
        patches.

        Raises ImageUnsuitable for an image the model cannot take (an aspect ratio over 200).
        """
        size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        try:
            out = self.image_processor(images=[image.convert("RGB")], size=size, return_tensors="pt")
        except ValueError as error:
            raise ImageUnsuitable(f"image of {image.width} x {image.height} pixels: {error}") from error
        grid_t, grid_h, grid_w = out["image_grid_thw"][0].tolist()
        return PreparedImage(
            pixel_values=out["pixel_values"],
            grid=(grid_t, grid_h, grid_w),
            visual_tokens=grid_t * grid_h * grid_w // self.merge_size**2,
            original_size=(image.width, image.height),
        )

    def collate(self, turns: Sequence[Turn], images: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
        """Left-padded inputs for `model(**inputs)`, one turn and one image a row.

        Returns input_ids, attention_mask, mm_token_type_ids, each (B, T) int64; pixel_values (patches of
        all images, patch dim); image_grid_thw (B, 3). The mask comes from lengths, never from comparing ids
        with the pad token (many chat tokenizers use one id for padding and for ending a turn). transformers
        5 places image positions by mm_token_type_ids (1 = image), and fails or misplaces them without it.
        """
        rows = [turn.ids(image.visual_tokens) for turn, image in zip(turns, images, strict=True)]
        width = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self._pad_id(), dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        mm_token_type_ids = torch.zeros_like(input_ids)
        for i, (row, turn, image) in enumerate(zip(rows, turns, images, strict=True)):
            start = width - len(row)
            first = start + len(turn.before)
            input_ids[i, start:] = torch.tensor(row)
            attention_mask[i, start:] = 1
            mm_token_type_ids[i, first : first + image.visual_tokens] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": mm_token_type_ids,
            "pixel_values": torch.cat([image.pixel_values for image in images]),
            "image_grid_thw": torch.tensor([image.grid for image in images], dtype=torch.long),
        }

    def _pad_id(self) -> int:
        """Any id will do under the mask, except the image placeholder, which the model counts."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def load_processor(folder: Path) -> VisionProcessor:
    """Load tokenizer, PIL image processor and chat template from a checkpoint's folder.

    Raises ModelInvalid when one of them is missing or unreadable.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        image_processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
        settings, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
    except OSError as error:
        raise unreadable(f"{folder}: tokenizer or image processor", error) from error
    except ValueError as error:
        raise ModelInvalid(f"{folder}: cannot read tokenizer or image processor: {one_line(error)}") from error
    # Some checkpoints keep a text-only template with the tokenizer, the one with images elsewhere.
    template = settings.get("chat_template") or tokenizer.chat_template
    if not template:
        raise ModelInvalid(f"{folder} has no chat template; add chat_template.jinja to the checkpoint")
    return VisionProcessor(tokenizer=tokenizer, image_processor=image_processor, chat_template=template)
