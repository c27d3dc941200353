"""Shared by LLaVA and InternVL: square tiles for a vision tower, a projector, and a plain decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import ImageReader, PreparedImage, normalise
from scanfleet.models.types import Detail

VISION = ("model.vision_tower", "model.multi_modal_projector")

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # tokens before a tower's patches


class TowerReader(ImageReader):
    """Keeps tiles, [tiles, 3, side, side], in PreparedImage.pixels."""

    several = True

    def largest(self, max_pixels: int) -> int:
        """Return the pixels of the largest canvas of tiles within a budget; at least one tile."""
        return self.side**2

    def detail(self, *, max_pixels: int) -> Detail:
        """Return the size for decoding: two pixels for one along each side of the canvas, and of a whole-image tile."""
        return Detail(pixels=4 * self.largest(max_pixels), short_side=2 * self.side)

    @property
    def side(self) -> int:
        """Side of a tile, in pixels."""
        return int(self.config.vision_config.image_size)

    @property
    def resampling(self) -> Image.Resampling:
        return Image.Resampling(self.image_processor.resample)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [tiles of all images, 3, side, side]."""
        pixels = torch.cat([image.pixels.to(device, non_blocking=True) for image in images])
        return {"pixel_values": normalise(pixels, self.image_processor, dtype=dtype)}


class LlavaTowerReader(TowerReader):
    """Tiles for a CLIP or SigLIP tower, one token per patch.

    Args:
        folder: the checkpoint.
        tokenizer: its tokenizer.

    Raises:
        ModelInvalid: the checkpoint has another vision tower.
    """

    image_token = "<image>"  # noqa: S105 - a placeholder, not a secret

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        super().__init__(folder, tokenizer)
        tower = self.config.vision_config.model_type
        if tower not in CLASS_TOKENS:
            known = " or ".join(CLASS_TOKENS)
            raise ModelInvalid(f"{folder.name} has a vision tower of type {tower}; use a checkpoint with {known}")

    @property
    def patches(self) -> int:
        """Patches along a tile's side."""
        return self.side // int(self.config.vision_config.patch_size)

    @property
    def tokens_per_tile(self) -> int:
        """Patches and further tokens of the tower; the strategy "default" drops the tower's first token."""
        left_out = self.config.vision_feature_select_strategy == "default"
        return self.patches**2 + CLASS_TOKENS[self.config.vision_config.model_type] - left_out


def cells_of_tiles(image: PreparedImage, rows: int, columns: int, tokens_per_tile: int) -> Cells:
    """Return the cells of an image cut into rows and columns of tiles, whose tokens follow each other tile by tile."""
    side = math.isqrt(tokens_per_tile)
    tokens = np.arange(rows * columns * side**2).reshape(rows, columns, side, side)
    width, height = image.original_size
    return Cells(tokens=tokens.swapaxes(1, 2).reshape(rows * side, columns * side), region=(0, 0, width, height))


def tiles(canvas: Image.Image, side: int) -> torch.Tensor:
    """Cut an RGB image into tiles.

    Args:
        canvas: sides are multiples of `side`.
        side: of a tile, in pixels.

    Returns:
        [tiles, 3, side, side] uint8, row by row.
    """
    rows, columns = canvas.height // side, canvas.width // side
    pixels = torch.from_numpy(np.array(canvas)).view(rows, side, columns, side, 3)
    return pixels.permute(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
