"""SmolVLM (arXiv 2504.05299) and Idefics3 (arXiv 2408.12637), its predecessor.

An image becomes square tiles, row by row, and one more tile with the whole image. Checkpoints of the first SmolVLM
carry the name of Idefics3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import get_resize_output_image_size
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import Family, ImageReader, PreparedImage, normalise
from scanfleet.models.families.idefics2 import without_zeros
from scanfleet.models.families.tower import cells_of_tiles
from scanfleet.models.types import Detail

VISION = ("model.vision_model", "model.connector")
LANGUAGE_LINEAR = r"model\.text_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


class TileReader(ImageReader):
    """Keeps [tiles, side, side, 3] pixels, the whole image last; `grid` holds rows and columns of tiles."""

    image_token = "<image>"  # noqa: S105 - a placeholder, not a secret
    several = True

    @property
    def side(self) -> int:
        """Side of a tile, in pixels."""
        return int(self.image_processor.max_image_size["longest_edge"])

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Prepare as many tiles as the checkpoint makes and the budget holds; at least one tile with the whole image.

        The image is scaled up as well as down, as by the checkpoint's own processor.
        """
        (width, height), rows, columns = self._plan(image, max_pixels)
        resample = Image.Resampling(self.image_processor.resample)
        resized = image.convert("RGB").resize((width, height), resample)
        resized = resized.resize((columns * self.side, rows * self.side), resample)
        tiles = _tiles(resized, self.side)
        if len(tiles) > 1:
            tiles.append(resized.resize((self.side, self.side), resample))
        grid = (rows, columns) if len(tiles) > 1 else (0, 0)
        return PreparedImage(
            pixels=torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])),
            tokens=self._tokens(*grid),
            visual_tokens=self._tokens_per_tile * len(tiles),
            grid=grid,
            original_size=image.size,
            resized_size=resized.size,
        )

    def cells(self, image: PreparedImage) -> Cells:
        """Return the cells of the tiles; the extra tile with the whole image has coarser ones, which are left out."""
        columns, rows = (length // self.side for length in image.resized_size)
        return cells_of_tiles(image, rows, columns, self._tokens_per_tile)

    def detail(self, *, max_pixels: int) -> Detail:
        """Return the size for decoding; the model reads at least one tile."""
        return Detail(pixels=4 * max(max_pixels, self.side**2), short_side=1)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [tiles of all images, 1, 3, side, side].

        The model concatenates the features of all tiles; one tile a row needs no padding tiles between.
        """
        pixels = torch.cat([image.pixels.to(device, non_blocking=True) for image in images])
        values = normalise(pixels.permute(0, 3, 1, 2), self.image_processor, dtype=dtype)
        return {"pixel_values": without_zeros(values)[:, None]}

    def _plan(self, image: Image.Image, max_pixels: int) -> tuple[tuple[int, int], int, int]:
        """Return the (width, height) of the first resizing, and the rows and columns of tiles that it is widened to."""
        largest = int(self.image_processor.size["longest_edge"])
        for longest in [largest, *range((largest - 1) // self.side * self.side, 0, -self.side)]:
            height, width = get_resize_output_image_size(np.empty((0, image.height, image.width)), longest)
            if not self.image_processor.do_image_splitting:
                return (width, height), 1, 1
            rows, columns = self._grid(height, width)
            tiles = rows * columns + (rows * columns > 1)
            if tiles == 1 or tiles * self.side**2 <= max_pixels:
                break
        return (width, height), rows, columns

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tiles: the long side rounded up to whole tiles, and the short side from it."""
        if width >= height:
            columns = math.ceil(width / self.side)
            return math.ceil(int(columns * self.side / (width / height)) / self.side), columns
        rows = math.ceil(height / self.side)
        return rows, math.ceil(int(rows * self.side * (width / height)) / self.side)

    @property
    def _tokens_per_tile(self) -> int:
        patches = (self.side // int(self.config.vision_config.patch_size)) ** 2
        return int(patches / self.config.scale_factor**2)

    def _tokens(self, rows: int, columns: int) -> tuple[int, ...]:
        """Return the token ids of all tiles with their position tokens; (0, 0): the whole image alone."""
        text = get_image_prompt_string(
            rows, columns, self._tokens_per_tile, "<fake_token_around_image>", self.image_token, "<global-img>"
        )
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def _tiles(image: Image.Image, side: int) -> list[Image.Image]:
    """Cut an image into tiles, row by row."""
    corners = [(x, y) for y in range(0, image.height, side) for x in range(0, image.width, side)]
    return [image.crop((x, y, x + side, y + side)) for x, y in corners]


SMOLVLM = Family(model_type="smolvlm", reader=TileReader, vision=VISION, language_linear=LANGUAGE_LINEAR)

IDEFICS3 = Family(model_type="idefics3", reader=TileReader, vision=VISION, language_linear=LANGUAGE_LINEAR)
