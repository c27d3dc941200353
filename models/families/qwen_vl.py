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
from scanfleet.models.types import Resized, Resizing

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
        how = self.resizing(max_pixels=max_pixels, min_pixels=min_pixels)
        size = _resized(image.size, how)
        resized = image.convert("RGB").resize(size, Image.Resampling(how.resample))
        return self._prepared(torch.from_numpy(np.array(resized)), size, image.size)

    def resizing(self, *, max_pixels: int, min_pixels: int | None) -> Resizing:
        """Return how `prepare` resizes."""
        return Resizing(
            unit=self.patch_size * self.merge_size,
            least=min(self.min_pixels if min_pixels is None else min_pixels, max_pixels),
            most=max_pixels,
            strict=min_pixels is None,
            resample=int(self.image_processor.resample),
        )

    def take(self, image: Resized, resizing: Resizing) -> PreparedImage:
        """Return what `prepare` returns of an image that was resized elsewhere."""
        size = _resized(image.original_size, resizing)
        if image.size != size:
            raise AssertionError(f"{image.original_size} pixels were resized to {image.size}, and not to {size}")
        pixels = torch.frombuffer(image.rgb, dtype=torch.uint8).view(size[1], size[0], 3)
        return self._prepared(pixels, size, image.original_size)

    def _prepared(self, pixels: torch.Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> PreparedImage:
        unit = self.patch_size * self.merge_size
        rows, columns = size[1] // unit, size[0] // unit
        return PreparedImage(
            pixels=pixels,
            tokens=(self.image_token_id,) * (rows * columns),
            visual_tokens=rows * columns,
            grid=(rows, columns),
            original_size=original_size,
            resized_size=size,
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


def _resized(size: tuple[int, int], how: Resizing) -> tuple[int, int]:
    """Return (width, height). Raises ImageUnsuitable."""
    try:
        height, width = smart_resize(size[1], size[0], how.unit, how.least, how.most)
        if how.strict and height * width > how.most:  # enlarging rounds up
            height, width = smart_resize(height, width, how.unit, 1, how.most)
    except ValueError as error:
        raise ImageUnsuitable(f"image of {size[0]} x {size[1]} pixels: {error}") from error
    return width, height


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
