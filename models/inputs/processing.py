"""Images and prompts to model inputs, without torchvision.

transformers' processor classes of several families insist on a video processor, which needs torchvision. Here the
checkpoint's tokenizer, its PIL image processor and its chat template are composed directly; tests compare the results
with theirs. Nothing here knows networks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, ProcessorMixin

from scanfleet.models.errors import ModelInvalid, one_line, unreadable
from scanfleet.models.families import Family, ImageReader, PreparedImage, PreparedRow, Row, images_of
from scanfleet.models.inputs.further_turn import further_turn
from scanfleet.models.inputs.prompts import LabelCode, Prompt, Turn, make_prompt, render_turn
from scanfleet.models.types import Question, Resized

# A tag that opens a thought, at the end of a turn: <think>, <thinking>, <|think|>, ◁think▷, <seed:think>.
OPENS_A_THOUGHT = re.compile(r"[<\[◁]\|?(\w+:)?(think|thought|reason)\w*\|?[>\]▷]\s*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The inputs of one forward from the first image on, padded on the right.

    Attributes:
        inputs: For `ImageReader.hidden`: `input_ids` `[batch, tokens]` int64, `position_ids` `[batch, tokens]` or
            `[3, batch, tokens]`, and the family's image inputs.
        last: `[batch]` index of each row's last token, where the answer begins.
        n_padding: Number of padding tokens.
        after: `[batch]` index of the first token that all of a row's images precede.
        emphasis: `[batch, tokens]` fp32, log of the factor on the attention that the tokens after the images pay to
            each token; None where no row has one.
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
        """Render a question.

        Raises:
            ModelInvalid: The labels cannot be coded in single tokens.
        """
        return make_prompt(self.tokenizer, question, **self._rendering)

    def thinks_first(self) -> bool:
        """Return whether the chat template opens a thought, behind which no answer can be read in one prefill.

        Raises:
            ModelInvalid: The template writes no image, or runs for too long.
        """
        return OPENS_A_THOUGHT.search(self.turn("?", image_first=True).text) is not None

    def turn(self, text: str, *, image_first: bool) -> Turn:
        """Render one user turn of text and an image. Raises ModelInvalid as `models.inputs.prompts.render_turn`."""
        return render_turn(
            self.tokenizer,
            text,
            image_first=image_first,
            **self._rendering,
        )

    @property
    def _rendering(self) -> dict[str, Any]:
        """How turns of this checkpoint are rendered, for `models.inputs.prompts`."""
        reader = self.reader
        return {"image_token": reader.image_token, "chat_template": self.chat_template, "spaced": reader.spaced}

    def prepare(self, image: Image.Image | Resized, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Resize one image on the host; thread-safe.

        Args:
            image: In RGB; resized already only where the reader has a `resizing`.
            max_pixels: Most pixels after resizing.
            min_pixels: Fewest pixels after resizing; None: the checkpoint's own.

        Raises:
            ImageUnsuitable: The model cannot take this image.
        """
        if isinstance(image, Resized):
            resizing = self.reader.resizing(max_pixels=max_pixels, min_pixels=min_pixels)
            assert resizing is not None
            return self.reader.take(image, resizing)
        return self.reader.prepare(image, max_pixels=max_pixels, min_pixels=min_pixels)

    def further_turn(self, answer: LabelCode, text: str) -> tuple[int, ...]:
        """Return the tokens behind a turn: its answer, and a turn of the user that follows it.

        Raises:
            ModelInvalid: The chat template writes no such turn.
        """
        return further_turn(self.tokenizer, answer, text, chat_template=self.chat_template)

    def rows(
        self,
        turn: Turn,
        rows: Sequence[Row],
        *,
        device: torch.device,
        dtype: torch.dtype,
        behind: Sequence[Sequence[int]] | None = None,
    ) -> Rows:
        """Build the part of each row that follows `turn.before`: its image and `turn.after`.

        Two images have `turn.between` between them. There is no mask: padding is on the right, where no token sees it.

        Args:
            turn: The rendered user turn.
            rows: Prepared rows, at least one.
            device: Where the tensors go.
            dtype: Floating type of the image inputs.
            behind: Token ids that follow the turn in each row; None: none.

        Raises:
            ModelInvalid: A row has two images, and the model takes one.
        """
        shown = [images_of(row) for row in rows]
        if any(len(images) > 1 for images in shown):
            self.check_pairs(turn)
        between = turn.between or ()
        seen = [_tokens(images, between) for images in shown]
        ends = behind or [()] * len(rows)
        ids = [[*tokens, *turn.after, *end] for tokens, end in zip(seen, ends, strict=True)]
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
        """Check that the model reads two images in one turn.

        Raises:
            ModelInvalid: It takes only one.
        """
        if turn.between is None or not self.reader.several:
            raise ModelInvalid(
                f"{self.reader.folder.name} takes one image in a turn, not an original and a crop: "
                'set look = "crop" in [crop] or use another model'
            )

    def _emphasis(self, rows: Sequence[Row], ids: torch.Tensor) -> torch.Tensor | None:
        """Return `Rows.emphasis` for padded ids `[batch, tokens]`."""
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
        """Return any id but the image placeholder, which the model counts; no token attends to padding."""
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
    """Return whether a row has an emphasis that changes anything; a factor of 1 does not."""
    return isinstance(row, PreparedRow) and row.emphasis is not None and row.factor != 1


def load_processor(folder: Path, family: Family) -> VisionProcessor:
    """Load tokenizer, image processor and chat template from a checkpoint's folder.

    Args:
        folder: The checkpoint on disk; nothing is downloaded.
        family: Family of the model.

    Raises:
        ModelInvalid: A part is missing or broken.
        ModelUnavailable: A file cannot be read now.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        reader = family.reader(folder, tokenizer)
        settings, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
    except OSError as error:
        raise unreadable(f"{folder}: tokenizer or image processor", error) from error
    except ValueError as error:
        raise ModelInvalid(f"{folder}: cannot read tokenizer or image processor: {one_line(error)}") from error
    # Some checkpoints keep a text-only template with the tokenizer, and the one with images elsewhere.
    template = settings.get("chat_template") or tokenizer.chat_template or reader.chat_template
    if not template:
        raise ModelInvalid(f"{folder} has no chat template; add chat_template.jinja to the checkpoint")
    return VisionProcessor(tokenizer=tokenizer, reader=reader, chat_template=template)
