"""Images and prompts to model inputs, without torchvision.

transformers' processor classes of several families insist on a video processor, which needs torchvision. Here the
checkpoint's tokenizer, its PIL image processor and its chat template are composed directly. Tests compare with theirs.

Knows tensors; knows nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, ProcessorMixin

from models.errors import ModelInvalid, one_line, unreadable
from models.families import Family, ImageReader, PreparedImage, PreparedRow, Row, images_of
from models.inputs.prompts import Prompt, Turn, make_prompt
from models.types import Question


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The inputs of one forward from the first image on, padded on the right.

    inputs: for `ImageReader.hidden`. last: (B,) index of each row's last token, where the answer begins.
    n_padding: tokens that nobody asked for. after: (B,) index of the first token that all of a row's images precede.
    emphasis: (B, T) fp32, the logarithm of how many times as much attention the tokens after the images pay to each
    token; None where no row asks for any.
    """

    inputs: dict[str, Any]
    last: torch.Tensor
    n_padding: int
    after: torch.Tensor
    emphasis: torch.Tensor | None = None


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

    def rows(self, turn: Turn, rows: Sequence[Row], *, device: torch.device, dtype: torch.dtype) -> Rows:
        """What follows `turn.before` in each row: its image, or two with what stands between them, and `turn.after`.

        input_ids (B, T) and position_ids stand beside the family's image inputs. No mask: padding is on the right,
        out of every token's sight. Raises ModelInvalid for two images where the model takes one.
        """
        shown = [images_of(row) for row in rows]
        if any(len(images) > 1 for images in shown):
            self.check_pairs(turn)
        between = turn.between or ()
        seen = [_tokens(images, between) for images in shown]
        ids = [[*tokens, *turn.after] for tokens in seen]
        width = max(map(len, ids))
        padded = torch.tensor([row + [self._pad_id()] * (width - len(row)) for row in ids])
        places = self.reader.positions(before=len(turn.before), rows=shown, between=len(between), width=width)
        inputs = {"input_ids": padded.to(device), "position_ids": places.to(device)}
        pictures = [image for images in shown for image in images]
        emphasis = self._emphasis(rows, padded)
        return Rows(
            inputs=inputs | self.reader.stack(pictures, device=device, dtype=dtype),
            last=torch.tensor([len(row) - 1 for row in ids], device=device),
            n_padding=sum(width - len(row) for row in ids),
            after=torch.tensor([len(tokens) for tokens in seen], device=device),
            emphasis=None if emphasis is None else emphasis.to(device),
        )

    def check_pairs(self, turn: Turn) -> None:
        """Raises ModelInvalid unless the model reads two images in one turn."""
        if turn.between is None or not self.reader.several:
            raise ModelInvalid(
                f"{self.reader.folder.name} takes one image in a turn, not an original and a crop: "
                'set look = "crop" in [crop], or use another model'
            )

    def _emphasis(self, rows: Sequence[Row], ids: torch.Tensor) -> torch.Tensor | None:
        """ids (B, T) -> `Rows.emphasis`."""
        if not any(_emphasised(row) for row in rows):
            return None
        found = torch.zeros(ids.shape)
        for number, row in enumerate(rows):
            if isinstance(row, PreparedRow) and _emphasised(row):
                assert row.emphasis is not None
                visual = (ids[number] == self.reader.image_token_id).nonzero().flatten()
                found[number, visual[row.emphasis]] = math.log(row.factor)
        return found

    def _pad_id(self) -> int:
        """Any id will do where nobody looks, except the image placeholder, which the model counts."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def _tokens(images: Sequence[PreparedImage], between: Sequence[int]) -> list[int]:
    first, *others = images
    tokens = list(first.tokens)
    for image in others:
        tokens += [*between, *image.tokens]
    return tokens


def _emphasised(row: Row) -> bool:
    """A factor of 1 changes nothing, so that nothing is to be done for it."""
    return isinstance(row, PreparedRow) and row.emphasis is not None and row.factor != 1


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
