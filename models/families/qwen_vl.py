"""The Qwen-VL families: images of their own size, cut into patches, placed in rows and columns.

These are Qwen2-VL, Qwen2.5-VL with models tuned from it (RolmOCR), and Qwen3-VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import LANGUAGE_LINEAR, Family, ImageReader, PreparedImage, normalise
from scanfleet.models.families.segments import use_segments

VISION = ("model.visual",)


class QwenReader(ImageReader):
    """Keeps [height, width, 3] pixels; the device cuts them into patches."""

    image_token = "<|image_pad|>"  # noqa: S105 - a placeholder, not a secret
    several = True

    @property
    def patch_size(self) -> int:
        return int(self.image_processor.patch_size)

    @property
    def merge_size(self) -> int:
        return int(self.image_processor.merge_size)

    @property
    def min_pixels(self) -> int:
        return int(self.image_processor.size["shortest_edge"])

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Resize within the pixel budget: the aspect ratio is kept and sides are multiples of patch * merge.

        Raises:
            ImageUnsuitable: the aspect ratio is over 200.
        """
        unit = self.patch_size * self.merge_size
        least = min(self.min_pixels if min_pixels is None else min_pixels, max_pixels)
        try:
            height, width = smart_resize(image.height, image.width, unit, least, max_pixels)
            if min_pixels is None and height * width > max_pixels:  # enlarging rounds up
                height, width = smart_resize(height, width, unit, 1, max_pixels)
        except ValueError as error:
            raise ImageUnsuitable(f"image of {image.width} x {image.height} pixels: {error}") from error
        resized = image.convert("RGB").resize((width, height), Image.Resampling(self.image_processor.resample))
        rows, columns = height // unit, width // unit
        return PreparedImage(
            pixels=torch.from_numpy(np.array(resized)),
            tokens=(self.image_token_id,) * (rows * columns),
            visual_tokens=rows * columns,
            grid=(rows, columns),
            original_size=image.size,
            resized_size=(width, height),
        )

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [patches of all images, channels * patch²] and image_grid_thw [batch, 3] in patches."""
        cut = [self._cut(image.pixels.to(device, non_blocking=True)) for image in images]
        grids = [(1, rows * self.merge_size, columns * self.merge_size) for rows, columns in (i.grid for i in images)]
        pixels = normalise(torch.cat(cut), self.image_processor, dtype=dtype)
        return {"pixel_values": pixels.flatten(1), "image_grid_thw": torch.tensor(grids, device=device)}

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map [height, width, 3] to [patches, 3, patch, patch]; the patches of one merged token are consecutive."""
        merge, patch = self.merge_size, self.patch_size
        rows, columns = pixels.shape[0] // (merge * patch), pixels.shape[1] // (merge * patch)
        blocks = pixels.view(rows, merge, patch, columns, merge, patch, 3)
        return blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, patch, patch)

    def cells(self, image: PreparedImage) -> Cells:
        """Return one cell per visual token, row by row, over the whole image."""
        width, height = image.original_size
        return Cells(tokens=np.arange(image.visual_tokens).reshape(image.grid), region=(0, 0, width, height))

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        """Return time, row and column of each token, [3, batch, width] (M-RoPE, arXiv 2409.12191).

        An image's tokens share a time. The following text starts after the larger of the image's rows and columns.
        """
        places = [_places([image.grid for image in images], between, width) for images in rows]
        return before + torch.stack(places, dim=1)


def _places(grids: Sequence[tuple[int, int]], between: int, width: int) -> torch.Tensor:
    """Return the positions [3, width] of one row, counted from its first image."""
    parts, start = [], 0
    for number, (rows, columns) in enumerate(grids):
        if number:
            parts.append(_text(start, between))
            start += between
        y = torch.arange(rows).repeat_interleave(columns)
        x = torch.arange(columns).repeat(rows)
        parts.append(start + torch.stack((torch.zeros_like(y), y, x)))
        start += max(rows, columns)
    parts.append(_text(start, width - sum(part.shape[1] for part in parts)))
    return torch.cat(parts, dim=1)


def _text(start: int, length: int) -> torch.Tensor:
    return torch.arange(start, start + length).expand(3, -1)


class StillPatchEmbed(torch.nn.Module):
    """The patch embedding for still images, whose frame is the same at every time step.

    A convolution whose stride equals its kernel is a matrix product, and with equal frames its kernel can be summed
    over time. That halves the products and avoids repeated pixels. Patches with all frames use the family's own
    embedding.

    Args:
        embed: the family's own patch embedding.
    """

    def __init__(self, embed: Any) -> None:
        super().__init__()
        self.full = embed
        folded = embed.proj.weight.float().sum(2).flatten(1).to(embed.proj.weight.dtype)
        self.folded: torch.Tensor
        self.register_buffer("folded", folded, persistent=False)

    @property
    def proj(self) -> Any:
        return self.full.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Embed patches.

        Args:
            patches: [patches, channels * patch²], or with every frame [patches, channels * frames * patch²].

        Returns:
            [patches, features] in the embedding's dtype.
        """
        folded = self.folded
        if patches.shape[-1] != folded.shape[-1]:
            every: torch.Tensor = self.full(patches)
            return every
        return F.linear(patches.to(folded.dtype), folded, self.proj.bias)


def optimise(network: Any) -> None:
    """Install the shorter patch embedding and attention by groups of images in a loaded network, in place."""
    visual = network.base_model.visual
    visual.patch_embed = StillPatchEmbed(visual.patch_embed)
    use_segments(visual.config)


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    reader=QwenReader,
    vision=VISION,
    language_linear=LANGUAGE_LINEAR,
    boxes="resized_pixels",
    optimise=optimise,
)

QWEN2_VL = Family(
    model_type="qwen2_vl",
    reader=QwenReader,
    vision=VISION,
    language_linear=LANGUAGE_LINEAR,
    boxes="thousandths",
    optimise=optimise,
)

QWEN3_VL = Family(
    model_type="qwen3_vl",
    reader=QwenReader,
    vision=VISION,
    language_linear=LANGUAGE_LINEAR,
    boxes="thousandths",
    optimise=optimise,
)
