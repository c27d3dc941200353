"""LLaVA-NeXT, also called LLaVA-1.6: a view of the whole image, and the image cut into tiles of the tower's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import LANGUAGE_LINEAR, Family, PreparedImage
from scanfleet.models.families.tower import VISION, LlavaTowerReader, tiles

Pinpoint = tuple[int, int]  # height and width of a canvas that may be cut into tiles, in pixels


class LlavaNextReader(LlavaTowerReader):
    """Chooses among the checkpoint's canvases by the pixel budget, which covers canvas and view together.

    PreparedImage.grid holds rows and columns of the patches that show some of the image; extra those of the canvas's
    tiles.
    """

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Prepare one tile with the whole image, then the tiles of a canvas that keeps the image's aspect ratio."""
        rgb, size = image.convert("RGB"), (image.height, image.width)
        best = select_best_resolution(size, self._allowed(max_pixels))
        canvas, resized_size = self._laid_on(rgb, best)
        whole = rgb.resize((self.side, self.side), self.resampling)
        rows, columns = self._grid(size, best)
        count = self.tokens_per_tile + rows * (columns + 1)  # one token more ends each row
        return PreparedImage(
            pixels=torch.cat((tiles(whole, self.side), tiles(canvas, self.side))),
            tokens=(self.image_token_id,) * count,
            visual_tokens=count,
            grid=(rows, columns),
            original_size=image.size,
            resized_size=resized_size,
            extra=(best[0] // self.side, best[1] // self.side),
        )

    def cells(self, image: PreparedImage) -> Cells:
        """Return the canvas's patches that show some of the image; the coarser ones of the view are left out."""
        rows, columns = image.grid
        ended = self.tokens_per_tile + np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
        patch = self.side / self.patches
        (width, height), (wide, high) = image.original_size, image.resized_size
        x, y = (wide - columns * patch) / 2 * width / wide, (high - rows * patch) / 2 * height / high
        return Cells(tokens=ended[:, :-1], region=(x, y, width - x, height - y))

    def largest(self, max_pixels: int) -> int:
        return max(math.prod(pinpoint) for pinpoint in self._allowed(max_pixels))

    def _allowed(self, max_pixels: int) -> list[Pinpoint]:
        """Return the canvases within the budget; if there are none, those with the fewest pixels."""
        every = [(int(height), int(width)) for height, width in self.config.image_grid_pinpoints]
        budget = max(max_pixels - self.side**2, min(map(math.prod, every)))
        return [pinpoint for pinpoint in every if math.prod(pinpoint) <= budget]

    def _laid_on(self, image: Image.Image, pinpoint: Pinpoint) -> tuple[Image.Image, tuple[int, int]]:
        """Return the black canvas with the image in its middle, and the image's (width, height) on it."""
        height, width = pinpoint
        across, down = width / image.width, height / image.height
        if across < down:
            size = width, min(math.ceil(image.height * across), height)
        else:
            size = min(math.ceil(image.width * down), width), height
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(size, self.resampling), ((width - size[0]) // 2, (height - size[1]) // 2))
        return canvas, size

    def _grid(self, size: tuple[int, int], pinpoint: Pinpoint) -> tuple[int, int]:
        """Return rows and columns of the canvas's patches without its bars."""
        rows, columns = (length // self.side * self.patches for length in pinpoint)
        height, width = size
        if width / height > columns / rows:
            return _without_bars(rows, height * (columns / width)), columns
        return rows, _without_bars(columns, width * (rows / height))

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [tiles of all images, 3, side, side], and the images, whose grids `hidden` needs."""
        return super().stack(images, device=device, dtype=dtype) | {"images": images}

    def hidden(self, network: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Run the network with the features of the chosen canvases: [batch, width, features].

        The model's own forward would choose among all canvases of the checkpoint.
        """
        inputs = dict(inputs)
        model, ids, images = network.base_model, inputs.pop("input_ids"), inputs.pop("images")
        features = self._features(model, inputs.pop("pixel_values"))
        parts = torch.split(features, [len(image.pixels) for image in images])
        flat = [_flat(part, image, model.image_newline) for part, image in zip(parts, images, strict=True)]
        embeds = model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == self.image_token_id)[..., None], torch.cat(flat).to(embeds.dtype))
        return super().hidden(network, inputs | {"inputs_embeds": embeds})

    def _features(self, model: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Map [tiles, 3, side, side] to [tiles, patches², features], from the layers that the checkpoint names."""
        seen = model.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = torch.cat([seen[i] for i in ([layers] if isinstance(layers, int) else layers)], dim=-1)
        left_out = int(self.config.vision_feature_select_strategy == "default")
        features: torch.Tensor = model.multi_modal_projector(chosen[:, left_out:])
        return features


def _flat(features: torch.Tensor, image: PreparedImage, newline: torch.Tensor) -> torch.Tensor:
    """Map features [tiles, patches², features] of one image to [tokens, features].

    The whole image comes first, then the canvas row by row without its bars.
    """
    (down, across), (rows, columns) = image.extra, image.grid
    side = math.isqrt(features.shape[1])
    canvas = features[1:].view(down, across, side, side, -1).transpose(1, 2).reshape(down * side, across * side, -1)
    top, left = (down * side - rows) // 2, (across * side - columns) // 2
    inner = canvas[top : top + rows, left : left + columns]
    ended = torch.cat((inner, newline.to(inner.dtype).expand(rows, 1, -1)), dim=1)
    return torch.cat((features[0], ended.flatten(0, 1)))


def _without_bars(patches: int, covered: float) -> int:
    """Return the number of patches left of `patches` after cropping equal bars beside the covered ones."""
    return patches - 2 * ((patches - int(round(covered, 7))) // 2)


FAMILY = Family(model_type="llava_next", reader=LlavaNextReader, vision=VISION, language_linear=LANGUAGE_LINEAR)
