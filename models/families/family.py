"""What differs between model families: how an image is cut, which tokens stand for it, and how a forward is called.

A family is one small file that ends in `FAMILY = Family(...)`; `models.families` finds it by being there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor

from models.errors import ModelInvalid
from models.families.cells import Cells
from models.types import Detail

LONGEST_PROMPT = 4096  # tokens that any prompt of ours stays under; a window of attention must not be shorter


# Of a language model in the place and with the names that most families give it.
LANGUAGE_LINEAR = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """One image on the host, resized and still 8 bit; the device normalises it.

    pixels: uint8, in the family's layout. tokens: what replaces the placeholder in the prompt. visual_tokens: how many
    of them the vision tower fills. grid: merged rows and columns, where the family places tokens in two dimensions.
    original_size, resized_size: (width, height) in pixels. extra: what else the family's forward needs of it.
    """

    pixels: torch.Tensor
    tokens: tuple[int, ...]
    visual_tokens: int
    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    grid: tuple[int, int] = (0, 0)
    extra: Any = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRow:
    """Several images in one turn, or one whose attention is reweighted: a row of a forward beside `PreparedImage`s.

    emphasis: (visual tokens of all images,) bool, the tokens that the language model's attention favours, and factor:
    how many times; None: none.
    """

    images: tuple[PreparedImage, ...]
    emphasis: torch.Tensor | None = None
    factor: float = 1.0

    @property
    def visual_tokens(self) -> int:
        return sum(image.visual_tokens for image in self.images)


Row = PreparedImage | PreparedRow


def images_of(row: Row) -> tuple[PreparedImage, ...]:
    """In the order in which the turn shows them."""
    return row.images if isinstance(row, PreparedRow) else (row,)


class ImageReader(ABC):
    """Images to model inputs for one checkpoint. `prepare` only reads state, so that many threads may share it."""

    image_token: str  # the placeholder in the chat template
    several = False  # whether its model reads several images in one turn

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        """Raises OSError or ValueError when the image processor cannot be read; ModelInvalid for a language model whose
        tokens do not see the whole prompt: the instruction's keys and values stand for every layer and every token
        (`models.network.prefix`)."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.image_processor: Any = self.load_image_processor(folder)
        window = self.config.get_text_config(decoder=True).to_dict().get("sliding_window")
        if window is not None and window < LONGEST_PROMPT:
            raise ModelInvalid(
                f"the language model of {folder.name} attends to {window} tokens at a time; use one that attends to all"
            )

    def load_image_processor(self, folder: Path) -> Any:
        """The checkpoint's image processor in its PIL form, which needs no torchvision."""
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")

    @cached_property
    def config(self) -> Any:
        """The checkpoint's own configuration."""
        return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @property
    def chat_template(self) -> str | None:
        """A template for checkpoints that bring none; None: they must bring one."""
        return None

    @property
    def image_token_id(self) -> int:
        """Of the token that the vision tower fills."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def detail(self, *, max_pixels: int) -> Detail | None:
        """How small an image may be decoded under a pixel budget."""
        # Four decoded pixels for one that the model reads, so that resizing has enough to average.
        return Detail(pixels=4 * max_pixels, short_side=1)

    @abstractmethod
    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        """Resize one image and say which tokens stand for it. Raises ImageUnsuitable for one the model cannot take."""

    @abstractmethod
    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """The image inputs of one forward, on the device, normalised there: images of all rows, one after another."""

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        """Positions of the tokens from the first image on, (B, width) or (3, B, width); they follow `before` others.

        rows: the images of each. between: tokens between two images of a row.
        """
        return torch.arange(before, before + width).expand(len(rows), -1)

    def cells(self, image: PreparedImage) -> Cells:
        """Where an image's visual tokens lie. Raises ModelInvalid for a family whose tokens lie nowhere."""
        raise ModelInvalid(
            f"the image tokens of a {self.config.model_type} model have no place in the image: use the looks larger or "
            "tiles, which need none"
        )

    def hidden(self, network: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The last hidden states (B, width, d) of a forward without keeping its keys and values."""
        out: torch.Tensor = network.base_model(**inputs, use_cache=False).last_hidden_state
        return out


def normalise(pixels: torch.Tensor, processor: Any, *, dtype: torch.dtype) -> torch.Tensor:
    """(..., 3, H, W) uint8 -> the same in `dtype`, rescaled and normalised as the image processor would."""
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return ((pixels.float() * processor.rescale_factor - mean) / std).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What loading, scoring, fine-tuning and box parsing need to know about one architecture.

    model_type: as in the checkpoint's config.json. reader: how its images are read. vision: name prefixes of the vision
    tower and what leads from it to the language model; never quantised, frozen by default. language_linear: regex (full
    match) of the language model's linear layers; a list of suffixes will not do, because vision towers have layers of
    the same names. boxes: what generated coordinates mean: thousandths of the image, or pixels of the resized image;
    None: the family was not taught to give any. complete: adds to a loaded network what the checkpoint's folder keeps
    beside the weights. optimise: swaps modules for equal, faster ones after loading. precisions: those it can be loaded
    in.
    """

    model_type: str
    reader: type[ImageReader]
    vision: tuple[str, ...]
    language_linear: str
    boxes: Literal["thousandths", "resized_pixels"] | None = None
    complete: Callable[[Any, Path], None] | None = None
    optimise: Callable[[Any], None] | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "nf4", "int8")

    def check_precision(self, precision: str) -> None:
        """Raises ModelInvalid for one that this family cannot be loaded in."""
        if precision not in self.precisions:
            able = ", ".join(self.precisions)
            raise ModelInvalid(f"a {self.model_type} model cannot be loaded in precision {precision}; choose {able}")
