"""The differences between model families: image preparation, image tokens, and the call of a forward.

A family is one small file with a `Family` object; `models.families` finds it.
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

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.cells import Cells
from scanfleet.models.types import Detail, Resized, Resizing

LONGEST_PROMPT = 4096  # tokens; every prompt is shorter, and an attention window must not be


# Most families place and name their language model like this.
LANGUAGE_LINEAR = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """One image on the host, resized and still in 8 bit; the device normalises it.

    Attributes:
        pixels: uint8, in the family's layout.
        tokens: the ids that replace the placeholder in the prompt.
        visual_tokens: the number of them that the vision tower fills.
        original_size: (width, height) in pixels.
        resized_size: (width, height) in pixels.
        grid: merged rows and columns, where the family places tokens in two dimensions.
        extra: further data for the family's forward.
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
    """Several images in one turn, or one image with emphasis: a row of a forward beside `PreparedImage`s.

    Attributes:
        images: in the order of the turn.
        emphasis: [visual tokens of all images] bool, the tokens that the language model's attention emphasises; None:
            none.
        factor: of the emphasis, 1 or more.
    """

    images: tuple[PreparedImage, ...]
    emphasis: torch.Tensor | None = None
    factor: float = 1.0

    @property
    def visual_tokens(self) -> int:
        return sum(image.visual_tokens for image in self.images)


Row = PreparedImage | PreparedRow


def images_of(row: Row) -> tuple[PreparedImage, ...]:
    """Return the images of a row in the order of the turn."""
    return row.images if isinstance(row, PreparedRow) else (row,)


class ImageReader(ABC):
    """Turns images into model inputs for one checkpoint. `prepare` only reads state, so threads may share a reader.

    Args:
        folder: the checkpoint.
        tokenizer: its tokenizer.

    Raises:
        OSError: the image processor cannot be read.
        ValueError: the image processor is malformed.
        ModelInvalid: the language model's attention window is shorter than a prompt. The instruction's keys and values
            must hold for every layer and every token (`models.network.prefix`).
    """

    image_token: str  # the placeholder in the chat template
    several = False  # whether the model reads several images in one turn
    spaced = False  # whether the family's processor puts a space before a word right behind an image
    blind_to_questions = True  # False: what the vision parts return depends on the question

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.image_processor: Any = self.load_image_processor(folder)
        window = self.config.get_text_config(decoder=True).to_dict().get("sliding_window")
        if window is not None and window < LONGEST_PROMPT:
            raise ModelInvalid(
                f"the language model of {folder.name} attends to {window} tokens only; use one without such a window"
            )

    def load_image_processor(self, folder: Path) -> Any:
        """Load the checkpoint's image processor in its PIL form, which needs no torchvision."""
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")

    @cached_property
    def config(self) -> Any:
        """The checkpoint's own configuration."""
        return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @property
    def chat_template(self) -> str | None:
        """A template for checkpoints without one; None: the checkpoint must have one."""
        return None

    @property
    def image_token_id(self) -> int:
        """The id of the token that the vision tower fills."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def detail(self, *, max_pixels: int) -> Detail | None:
        """Return the smallest size to which an image may be decoded under a pixel budget."""
        # Four decoded pixels for each pixel that the model reads, so that resizing has enough to average.
        return Detail(pixels=4 * max_pixels, short_side=1)

    def resizing(self, *, max_pixels: int, min_pixels: int | None) -> Resizing | None:
        """Return all that `prepare` does to the pixels of an image, if it only resizes it."""
        return None

    def take(self, image: Resized, resizing: Resizing) -> PreparedImage:
        """Return what `prepare` returns of an image that was resized elsewhere."""
        raise AssertionError(f"{type(self).__name__} resizes no image like {resizing}")

    @property
    def min_pixels(self) -> int:
        """The lower bound in the checkpoint's own image processor; 0 in families that have none."""
        return 0

    @abstractmethod
    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Resize one image and determine its tokens.

        Args:
            image: in any mode and size.
            max_pixels: upper bound of the pixels that the model reads.
            min_pixels: lower bound; None: the checkpoint's own. The upper bound counts more.

        Raises:
            ImageUnsuitable: the model cannot read this image.
        """

    @abstractmethod
    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Build the image inputs of one forward, and normalise them on the device.

        Args:
            images: of all rows, one after another.
            device: of the inputs.
            dtype: of the pixel values.

        Returns:
            Keyword arguments of the network's forward.
        """

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        """Return the positions of all tokens from the first image on.

        Args:
            before: number of tokens before the first image.
            rows: the images of each row.
            between: number of tokens between two images of a row.
            width: number of tokens from the first image on.

        Returns:
            int64, [batch, width], or [3, batch, width] for families with positions in three dimensions.
        """
        return torch.arange(before, before + width).expand(len(rows), -1)

    def cells(self, image: PreparedImage) -> Cells:
        """Return the place of an image's visual tokens in the image.

        Raises:
            ModelInvalid: the family's visual tokens have no place in the image.
        """
        raise ModelInvalid(
            f"the image tokens of a {self.config.model_type} model have no place in the image: use look larger or "
            "tiles, which do not need a map"
        )

    def hidden(self, network: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Run the network without keeping keys and values.

        Args:
            network: the loaded network.
            inputs: token ids, positions, cache, mask and the output of `stack`.

        Returns:
            The last hidden states, [batch, width, features], in the network's dtype.
        """
        out: torch.Tensor = network.base_model(**inputs, use_cache=False).last_hidden_state
        return out


def normalise(pixels: torch.Tensor, processor: Any, *, dtype: torch.dtype) -> torch.Tensor:
    """Rescale and normalise pixels as the image processor does.

    Args:
        pixels: [..., 3, height, width] uint8, on any device.
        processor: an object with `image_mean` and `image_std` (3 numbers each) and `rescale_factor`.
        dtype: of the result.

    Returns:
        The same shape in `dtype`; computed in fp32.
    """
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return ((pixels.float() * processor.rescale_factor - mean) / std).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The facts about one architecture for loading, scoring, fine-tuning and box parsing.

    Attributes:
        model_type: as in the checkpoint's config.json.
        reader: the class that reads its images.
        vision: name prefixes of the vision tower and its projector; never quantised, frozen by default.
        tower: the modules among them that see pixels alone; empty: all.
        language_linear: regex (full match) of the language model's linear layers. A list of suffixes would not do:
            vision towers have layers of the same names.
        boxes: the unit of generated coordinates, thousandths of the image or pixels of the resized image; None: the
            family was not trained to generate boxes.
        complete: adds data that the checkpoint's folder keeps beside the weights to a loaded network.
        optimise: replaces modules with faster equivalents after loading.
        precisions: supported for loading.
    """

    model_type: str
    reader: type[ImageReader]
    vision: tuple[str, ...]
    tower: tuple[str, ...] = ()
    language_linear: str
    boxes: Literal["thousandths", "resized_pixels"] | None = None
    complete: Callable[[Any, Path], None] | None = None
    optimise: Callable[[Any], None] | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "nf4", "int8")

    def check_precision(self, precision: str) -> None:
        """Check that this family can be loaded in a precision.

        Raises:
            ModelInvalid: it cannot; the message lists the supported precisions.
        """
        if precision not in self.precisions:
            able = ", ".join(self.precisions)
            raise ModelInvalid(f"a {self.model_type} model cannot be loaded in precision {precision}; choose {able}")
