"""Phi-4-multimodal (arXiv 2503.01743): the image on a white canvas of square crops, and one more crop with all of it.

transformers' image processor of this family needs torchvision; this module does its steps without. The checkpoint's
vision LoRA becomes part of the language model (`models.families.vision_lora`). The parts for sound are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin

from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.families.family import Family, ImageReader, PreparedImage, normalise
from scanfleet.models.families.vision_lora import add_vision_lora
from scanfleet.models.types import Detail


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Rows and columns of square crops of `side` pixels.

    The image fills width x height pixels of the canvas from the upper left corner.
    """

    rows: int
    columns: int
    width: int
    height: int
    side: int

    @property
    def margins(self) -> tuple[int, int]:
        """Empty pixels on the right and below."""
        return self.columns * self.side - self.width, self.rows * self.side - self.height

    def filled(self, patch: int) -> tuple[int, int]:
        """Return rows and columns of the canvas's patches (`patch` pixels a side) that hold some of the image."""
        right, below = self.margins
        per_crop = self.side // patch
        return self.rows * per_crop - below // patch, self.columns * per_crop - right // patch


def lay_out(width: int, height: int, *, side: int, most: int) -> Canvas:
    """Choose the canvas for an image.

    The canvas has as many crops as the image covers at its own size. If those are too many, it is the shape nearest to
    the image's own. The image then grows or shrinks until it fills the canvas in one direction; its aspect ratio stays.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        side: of a crop, in pixels.
        most: the largest number of crops.
    """
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    if columns * rows > most:
        columns, rows = _nearest(width, height, side, most)
    across, down = columns * side / width, rows * side / height
    if across < down:
        return Canvas(rows=rows, columns=columns, width=columns * side, height=int(height * across), side=side)
    return Canvas(rows=rows, columns=columns, width=int(width * down), height=rows * side, side=side)


def _nearest(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Return the columns and rows nearest to the image's shape.

    Of equally near ones it is the larger, if the image has pixels enough to fill half of it.
    """
    best, gap = (1, 1), math.inf
    for columns, rows in _shapes(most):
        found = abs(width / height - columns / rows)
        if found < gap or (found == gap and width * height > 0.5 * side**2 * columns * rows):
            best, gap = (columns, rows), found
    return best


@lru_cache(maxsize=64)
def _shapes(most: int) -> list[tuple[int, int]]:
    """Return all (columns, rows) of at most `most` crops, the smallest first."""
    shapes = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1])


SETTINGS = {
    "size": {"height": 448, "width": 448},
    "patch_size": 14,
    "dynamic_hd": 36,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
}  # defaults of transformers' processor
THINNEST = 10  # pixels of a resized image's shorter side
WHITE = 255


class PhiReader(ImageReader):
    """Keeps the canvas's [height, width, 3] pixels, and the Canvas in `extra`; `grid` holds its rows and columns."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        super().__init__(folder, tokenizer)
        self.image_token = str(tokenizer.convert_ids_to_tokens(int(self.config.vision_config.image_token_id)))
        self.side = int(self.image_processor.size["height"])  # of a crop, in pixels
        self.patches = self.side // int(self.image_processor.patch_size)  # along a side of a crop

    def load_image_processor(self, folder: Path) -> SimpleNamespace:
        """Read the image processor's settings only."""
        found, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
        return SimpleNamespace(**{name: found.get(name) or usual for name, usual in SETTINGS.items()})

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Prepare as many crops as the budget holds beside the whole image, at least one.

        Raises:
            ImageUnsuitable: a side of the resized image would be thinner than 10 pixels.
        """
        canvas = lay_out(image.width, image.height, side=self.side, most=self._most(max_pixels))
        if min(canvas.width, canvas.height) < THINNEST:
            raise ImageUnsuitable(
                f"image of {image.width} x {image.height} pixels: the strip is too thin for the model"
            )
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        # torchvision's resizing of 8-bit pixels differs from PIL's by a grey level in places.
        resized = F.interpolate(pixels, (canvas.height, canvas.width), mode="bilinear", antialias=True)[0]
        right, below = canvas.margins
        count = self._count(canvas)
        return PreparedImage(
            pixels=F.pad(resized, (0, right, 0, below), value=WHITE).permute(1, 2, 0).contiguous(),
            tokens=(self.image_token_id,) * count,
            visual_tokens=count,
            grid=(canvas.rows, canvas.columns),
            original_size=image.size,
            resized_size=(canvas.width, canvas.height),
            extra=canvas,
        )

    def detail(self, *, max_pixels: int) -> Detail:
        """Return the size for decoding; the model reads at least one crop."""
        return Detail(pixels=4 * max(max_pixels, self.side**2), short_side=1)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return image_pixel_values, image_attention_mask and image_sizes.

        image_pixel_values is [batch, crops, 3, side, side], the whole image first and empty crops last.
        image_attention_mask is [batch, crops, patches, patches]. image_sizes is [batch, 2], height and width of the
        canvas, on the host, where it is read.
        """
        most = max(1 + rows * columns for rows, columns in (image.grid for image in images))
        values = torch.zeros(len(images), most, 3, self.side, self.side, dtype=dtype, device=device)
        mask = torch.ones(len(images), most, self.patches, self.patches, dtype=torch.bool, device=device)
        for i, image in enumerate(images):
            crops = self._cut(image.pixels.to(device, non_blocking=True))
            values[i, : len(crops)] = crops
            mask[i, 1 : len(crops)] = self._mask(image.extra).to(device)
        sizes = torch.tensor([image.pixels.shape[:2] for image in images])
        return {"image_pixel_values": values, "image_attention_mask": mask, "image_sizes": sizes}

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        """Return positions as for any text, [batch, width].

        Raises:
            ModelInvalid: question and image together exceed the range of the short rotary factors.
        """
        if self._longest is not None and before + width > self._longest:
            raise ModelInvalid(
                f"question and image have {before + width} tokens, and beyond {self._longest} the model uses other "
                "rotary factors; shorten the question or lower max_pixels"
            )
        return super().positions(before=before, rows=rows, between=between, width=width)

    @property
    def _longest(self) -> int | None:
        """Largest number of tokens for the short rotary factors; None: the model has one set.

        Beyond it all tokens use the long factors, but the instruction's keys were computed with the short ones.
        """
        rope = self.config.rope_parameters
        return int(rope["original_max_position_embeddings"]) if rope["rope_type"] == "longrope" else None

    def _most(self, max_pixels: int) -> int:
        """Return the largest number of crops of a canvas.

        It is limited by the checkpoint, the budget, and three quarters of the short positions.
        """
        most = min(int(self.image_processor.dynamic_hd), max_pixels // self.side**2 - 1)
        if self._longest is not None:
            along = (self.patches + 1) // 2
            most = min(most, (self._longest * 3 // 4 - along * (along + 1) - 1) // (along * (along + 1)))
        return max(most, 1)

    def _count(self, canvas: Canvas) -> int:
        """Return the number of tokens of a canvas and the whole image.

        Each counts two by two patches that hold some of the image, and one token after each row; one token separates
        them.
        """
        along = (self.patches + 1) // 2
        rows, columns = (
            sum(at % self.patches % 2 == 0 for at in range(filled))
            for filled in canvas.filled(int(self.image_processor.patch_size))
        )
        return rows * (columns + 1) + 1 + along * (along + 1)

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map [height, width, 3] to the whole image and its crops, row by row, [1 + rows * columns, 3, side, side]."""
        values = normalise(pixels.permute(2, 0, 1), self.image_processor, dtype=torch.float32)
        whole = F.interpolate(values[None], (self.side, self.side), mode="bicubic")
        crops = values.unfold(1, self.side, self.side).unfold(2, self.side, self.side)
        return torch.cat((whole, crops.permute(1, 2, 0, 3, 4).flatten(0, 1)))

    def _mask(self, canvas: Canvas) -> torch.Tensor:
        """Return [rows * columns, patches, patches] bool: the patches of the crops that hold some of the image."""
        mask = torch.zeros(canvas.rows * self.patches, canvas.columns * self.patches, dtype=torch.bool)
        rows, columns = canvas.filled(int(self.image_processor.patch_size))
        mask[:rows, :columns] = True
        return mask.unfold(0, self.patches, self.patches).unfold(1, self.patches, self.patches).flatten(0, 1)


def complete(network: Any, folder: Path) -> None:
    """Add the vision LoRA, make the tower's attention bidirectional, and free the memory of the sound parts."""
    add_vision_lora(network, folder)
    extend = network.base_model.embed_tokens_extend
    extend.audio_embed = None
    # transformers marks the tower's attention causal, and SDPA then applies that whenever no crop of a batch has an
    # empty patch: an image's score would depend on its neighbours. Eager attention ignores the flag.
    for layer in extend.image_embed.img_processor.encoder.layers:
        layer.self_attn.is_causal = False


FAMILY = Family(
    model_type="phi4_multimodal",
    reader=PhiReader,
    vision=("model.embed_tokens_extend",),
    tower=("model.embed_tokens_extend.image_embed.img_processor",),  # the rest embeds the text, too
    language_linear=r"model\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)",
    complete=complete,
)
