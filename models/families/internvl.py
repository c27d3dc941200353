"""InternVL in transformers' own form (the checkpoints named -hf): tiles of 448 pixels."""

from __future__ import annotations

import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import LANGUAGE_LINEAR, Family, PreparedImage
from scanfleet.models.families.tower import VISION, TowerReader, cells_of_tiles, tiles


class InternVLReader(TowerReader):
    """Treats the pixel budget as a number of tiles; with several tiles, one of them shows the whole image."""

    image_token = "<IMG_CONTEXT>"  # noqa: S105 - a placeholder, not a secret

    @property
    def side(self) -> int:
        return int(self.config.vision_config.image_size[0])

    @property
    def tokens_per_tile(self) -> int:
        """Patches after the pixel shuffle, which merges each square of patches into one."""
        patches = self.side // int(self.config.vision_config.patch_size[0])
        return int(patches * self.config.downsample_ratio) ** 2

    def largest(self, max_pixels: int) -> int:
        return self._most_tiles(max_pixels) * self.side**2

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Stretch the image to the grid of tiles with the nearest aspect ratio."""
        rgb, side, most = image.convert("RGB"), self.side, self._most_tiles(max_pixels)
        fewest = min(int(self.image_processor.min_patches), most)
        columns, rows = get_optimal_tiled_canvas((image.height, image.width), (side, side), fewest, most)
        size = (columns * side, rows * side)
        pixels = tiles(rgb.resize(size, self.resampling), side)
        if len(pixels) > 1:
            pixels = torch.cat((pixels, tiles(rgb.resize((side, side), self.resampling), side)))
        count = len(pixels) * self.tokens_per_tile
        begin, end = self.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
        return PreparedImage(
            pixels=pixels,
            tokens=(begin, *(self.image_token_id,) * count, end),
            visual_tokens=count,
            original_size=image.size,
            resized_size=size,
        )

    def cells(self, image: PreparedImage) -> Cells:
        """Return the cells of the tiles; the extra tile with the whole image has coarser ones, which are left out."""
        columns, rows = (length // self.side for length in image.resized_size)
        return cells_of_tiles(image, rows, columns, self.tokens_per_tile)

    def _most_tiles(self, max_pixels: int) -> int:
        """Return the largest number of tiles of the image itself."""
        return max(1, min(int(self.image_processor.max_patches), max_pixels // self.side**2 - 1))


FAMILY = Family(
    model_type="internvl", reader=InternVLReader, vision=VISION, language_linear=LANGUAGE_LINEAR, boxes="thousandths"
)
