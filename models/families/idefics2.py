"""Idefics2 (arXiv 2405.02246): images of any shape up to 980 pixels a side, each condensed into 64 tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.idefics2.image_processing_pil_idefics2 import get_resize_output_image_size

from scanfleet.models.families.family import Family, ImageReader, PreparedImage, normalise
from scanfleet.models.types import Detail


class Idefics2Reader(ImageReader):
    """Keeps [crops, 3, height, width] pixels, one size for all crops, and their own (height, width) in `extra`."""

    image_token = "<image>"  # noqa: S105 - a placeholder, not a secret
    spaced = True

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Prepare four quarters and the whole image if the checkpoint splits and the budget holds five crops.

        Otherwise prepare the whole image alone. The budget counts the pixels of all crops together, as the vision tower
        reads them.
        """
        whole = image.convert("RGB")
        crops = [whole]
        if self._splits(max_pixels) and min(image.size) > 1:
            crops = [*_quarters(whole), whole]
        size = self._size(max(image.size) / min(image.size), max_pixels // len(crops))
        resized = [self._resize(crop, size) for crop in crops]
        sizes = [(crop.height, crop.width) for crop in resized]
        latents = int(self.config.perceiver_config.resampler_n_latents)
        fake = int(self.tokenizer.convert_tokens_to_ids("<fake_token_around_image>"))
        return PreparedImage(
            pixels=_pad([torch.from_numpy(np.array(crop)).permute(2, 0, 1) for crop in resized]),
            tokens=(fake, *(*(self.image_token_id,) * latents, fake) * len(crops)),
            visual_tokens=latents * len(crops),
            original_size=image.size,
            resized_size=resized[-1].size,
            extra=sizes,
        )

    def detail(self, *, max_pixels: int) -> Detail:
        """Return the size for decoding; a strip's short side is widened to the processor's shortest edge."""
        return Detail(pixels=4 * max_pixels, short_side=2 * int(self.image_processor.size["shortest_edge"]))

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return pixel_values [crops of all images, 1, 3, height, width] and pixel_attention_mask (True: image)."""
        pixels = _pad([crop for image in images for crop in image.pixels.to(device, non_blocking=True)])
        heights, widths = torch.tensor([size for image in images for size in image.extra], device=device).T
        rows, columns = (torch.arange(side, device=device) for side in pixels.shape[2:])
        mask = (rows < heights[:, None])[:, :, None] & (columns < widths[:, None])[:, None]
        values = without_zeros(normalise(pixels, self.image_processor, dtype=dtype))
        return {"pixel_values": values[:, None], "pixel_attention_mask": mask[:, None]}

    def _splits(self, max_pixels: int) -> bool:
        shortest = int(self.image_processor.size["shortest_edge"])
        return bool(self.image_processor.do_image_splitting) and max_pixels >= 5 * shortest**2

    def _size(self, aspect: float, max_pixels: int) -> SizeDict:
        """Return the processor's shortest and longest edge, lowered where a crop would exceed `max_pixels`."""
        longest = min(int(self.image_processor.size["longest_edge"]), math.isqrt(int(max_pixels * aspect)))
        shortest = min(int(self.image_processor.size["shortest_edge"]), max_pixels // longest)
        return SizeDict(shortest_edge=shortest, longest_edge=longest)

    def _resize(self, crop: Image.Image, size: SizeDict) -> Image.Image:
        height, width = get_resize_output_image_size(np.empty((0, crop.height, crop.width)), size)
        return crop.resize((width, height), Image.Resampling(self.image_processor.resample))


def without_zeros(pixels: torch.Tensor) -> torch.Tensor:
    """Make sure that no image is zero everywhere, in place: the model drops such an image as padding.

    One value becomes the smallest positive number, which changes no sum.

    Args:
        pixels: [images, 3, height, width], floating point.

    Returns:
        The same tensor.
    """
    corner = pixels[:, 0, 0, 0]
    corner.masked_fill_(corner == 0, torch.finfo(pixels.dtype).tiny)
    return pixels


def _quarters(image: Image.Image) -> list[Image.Image]:
    x, y, width, height = image.width // 2, image.height // 2, image.width, image.height
    boxes = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    return [image.crop(box) for box in boxes]


def _pad(crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pad crops [3, h, w] on the right and below to the largest: [crops, 3, height, width]."""
    height, width = (max(crop.shape[axis] for crop in crops) for axis in (1, 2))
    return torch.stack([F.pad(crop, (0, width - crop.shape[2], 0, height - crop.shape[1])) for crop in crops])


FAMILY = Family(
    model_type="idefics2",
    reader=Idefics2Reader,
    vision=("model.vision_model", "model.connector"),
    language_linear=r"model\.text_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
)
