"""Images and prompts to model inputs, without torchvision.

transformers' processor classes of several families insist on a video processor, which needs torchvision. Here the
checkpoint's tokenizer, its PIL image processor and its chat template are composed directly. Tests compare with theirs.

Knows tensors; knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, ProcessorMixin

from models.errors import ModelInvalid, one_line, unreadable
from models.families import Family, ImageReader, PreparedImage
from models.prompts import Prompt, Turn, make_prompt
from models.types import Question


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The inputs of one forward from the image on, one image a row, padded on the right.

    inputs: for `ImageReader.hidden`. last: (B,) index of each row's last token, where the answer begins.
    n_padding: tokens that nobody asked for.
    """

    inputs: dict[str, Any]
    last: torch.Tensor
    n_padding: int


class VisionProcessor:
    """Tokenizer, image reader and chat template of one checkpoint."""

    def __init__(self, *, tokenizer: Any, reader: ImageReader, chat_template: str) -> None:
        self.tokenizer = tokenizer
        self.reader = reader
        self.chat_template = chat_template

    def prompt(self, question: Question) -> Prompt:
        """Render the question; raises ModelInvalid when its labels cannot be coded in single tokens."""
        return make_prompt(
            self.tokenizer, question, image_token=self.reader.image_token, chat_template=self.chat_template
        )

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        """Resize one image on the host; many threads may. Raises ImageUnsuitable for one the model cannot take."""
        return self.reader.prepare(image, max_pixels=max_pixels, min_pixels=min_pixels)

    def rows(self, turn: Turn, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> Rows:
        """What follows `turn.before` for each image: its tokens and `turn.after`.

        input_ids (B, T) and position_ids stand beside the family's image inputs. No mask: padding is on the right,
        out of every token's sight.
        """
        ids = [[*image.tokens, *turn.after] for image in images]
        width = max(map(len, ids))
        padded = torch.tensor([row + [self._pad_id()] * (width - len(row)) for row in ids])
        places = self.reader.positions(before=len(turn.before), images=images, width=width)
        inputs = {"input_ids": padded.to(device), "position_ids": places.to(device)}
        return Rows(
            inputs=inputs | self.reader.stack(images, device=device, dtype=dtype),
            last=torch.tensor([len(row) - 1 for row in ids], device=device),
            n_padding=sum(width - len(row) for row in ids),
        )

    def _pad_id(self) -> int:
        """Any id will do where nobody looks, except the image placeholder, which the model counts."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def load_processor(folder: Path, family: Family) -> VisionProcessor:
    """Load tokenizer, image processor and chat template from a checkpoint's folder.

    Raises ModelInvalid when one of them is missing or unreadable.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        reader = family.reader(folder, tokenizer)
        settings, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
    except OSError as error:
        raise unreadable(f"{folder}: tokenizer or image processor", error) from error
    except ValueError as error:
        raise ModelInvalid(f"{folder}: cannot read tokenizer or image processor: {one_line(error)}") from error
    # Some checkpoints keep a text-only template with the tokenizer, the one with images elsewhere.
    template = settings.get("chat_template") or tokenizer.chat_template or reader.chat_template
    if not template:
        raise ModelInvalid(f"{folder} has no chat template; add chat_template.jinja to the checkpoint")
    return VisionProcessor(tokenizer=tokenizer, reader=reader, chat_template=template)
