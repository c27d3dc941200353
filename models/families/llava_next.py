"""LLaVA-NeXT, also called LLaVA-1.6: a view of the whole image, and the image cut into tiles of the tower's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from models.families.family import Family, PreparedImage
from models.families.tower import LANGUAGE_LINEAR, VISION, LlavaTowerReader, tiles

Pinpoint = tuple[int, int]  # height and width of a canvas that may be cut into tiles, in pixels


class LlavaNextReader(LlavaTowerReader):
    """The pixel budget chooses among the checkpoint's canvases; the view of the whole image comes on top of it.

    PreparedImage.extra: the canvases that the budget allowed.
    """

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        """The whole image in one tile, then the tiles of a canvas on which it lies with its own aspect ratio."""
        allowed = self._allowed(max_pixels)
        rgb, size = image.convert("RGB"), (image.height, image.width)
        best = select_best_resolution(size, list(allowed))
        canvas, resized_size = self._laid_on(rgb, best)
        count = self.tokens_per_tile + self._tokens(size, best)
        whole = rgb.resize((self.side, self.side), self.resampling)
        return PreparedImage(
            pixels=torch.cat((tiles(whole, self.side), tiles(canvas, self.side))),
            tokens=(self.image_token_id,) * count,
            visual_tokens=count,
            original_size=image.size,
            resized_size=resized_size,
            extra=allowed,
        )

    def largest(self, max_pixels: int) -> int:
        return max(math.prod(pinpoint) for pinpoint in self._allowed(max_pixels))

    def _allowed(self, max_pixels: int) -> tuple[Pinpoint, ...]:
        """Canvases within the budget; where none is, those with the fewest pixels."""
        every = [(int(height), int(width)) for height, width in self.config.image_grid_pinpoints]
        budget = max(max_pixels, min(map(math.prod, every)))
        return tuple(pinpoint for pinpoint in every if math.prod(pinpoint) <= budget)

    def _laid_on(self, image: Image.Image, pinpoint: Pinpoint) -> tuple[Image.Image, tuple[int, int]]:
        """The black canvas with the image in its middle, and the image's (width, height) there."""
        height, width = pinpoint
        across, down = width / image.width, height / image.height
        if across < down:
            size = width, min(math.ceil(image.height * across), height)
        else:
            size = min(math.ceil(image.width * down), width), height
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(size, self.resampling), ((width - size[0]) // 2, (height - size[1]) // 2))
        return canvas, size

    def _tokens(self, size: tuple[int, int], pinpoint: Pinpoint) -> int:
        """Patches of the canvas without its bars, and one token that ends each row of them."""
        rows, columns = (length // self.side * self.patches for length in pinpoint)
        height, width = size
        if width / height > columns / rows:
            rows = _without_bars(rows, height * (columns / width))
        else:
            columns = _without_bars(columns, width * (rows / height))
        return rows * columns + rows

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """image_sizes stay on the host, (height, width) each: the model computes every grid from them there."""
        (allowed,) = {image.extra for image in images}
        sizes = [(height, width) for width, height in (image.original_size for image in images)]
        return super().stack(images, device=device, dtype=dtype) | {"image_sizes": sizes, "pinpoints": allowed}

    def hidden(self, network: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """As every family; but the model chooses each canvas once more, from its own configuration, so that for this
        forward that must name the canvases of our budget. Whoever calls holds the network's lock."""
        config = network.config
        every = config.image_grid_pinpoints
        config.image_grid_pinpoints = [list(pinpoint) for pinpoint in inputs["pinpoints"]]
        try:
            return super().hidden(network, {name: value for name, value in inputs.items() if name != "pinpoints"})
        finally:
            config.image_grid_pinpoints = every


def _without_bars(patches: int, covered: float) -> int:
    """Of `patches` across a canvas those that are left when equal bars beside the covered ones are cut off."""
    return patches - 2 * ((patches - int(round(covered, 7))) // 2)


FAMILY = Family(model_type="llava_next", reader=LlavaNextReader, vision=VISION, language_linear=LANGUAGE_LINEAR)
