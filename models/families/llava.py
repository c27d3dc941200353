"""LLaVA-1.5 (arXiv 2310.03744): every image becomes one square of the vision tower's size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.families.cells import Cells
from scanfleet.models.families.family import LANGUAGE_LINEAR, Family, PreparedImage
from scanfleet.models.families.tower import VISION, LlavaTowerReader, tiles

MAX_ASPECT = 200  # the limit of Qwen-VL; the square would show next to nothing of a longer strip
PADDED_SIDES = 16  # longest side that is padded without being reduced first, in sides of the tower's square


class LlavaReader(LlavaTowerReader):
    """Ignores the pixel budget: the model reads one size.

    Released checkpoints resize the short side and crop the long one around its middle. With `do_pad` in the
    checkpoint's image processor the whole image is read, between bars of the mean colour.
    """

    def prepare(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        """Prepare one square.

        Raises:
            ImageUnsuitable: a strip longer than 200 times its width.
        """
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise ImageUnsuitable(
                f"image of {image.width} x {image.height} pixels: one side is over {MAX_ASPECT} times the other"
            )
        rgb = image.convert("RGB")
        if self.image_processor.do_pad:
            rgb = self._padded(rgb)
        return PreparedImage(
            pixels=tiles(self._square(rgb), self.side),
            tokens=(self.image_token_id,) * self.tokens_per_tile,
            visual_tokens=self.tokens_per_tile,
            original_size=image.size,
            resized_size=(self.side, self.side),
        )

    def cells(self, image: PreparedImage) -> Cells:
        """Return the tower's patches over the square that was cropped from the image, or padded around it."""
        first = self.tokens_per_tile - self.patches**2  # tokens before the patches; -1: the first patch has no token
        tokens = np.arange(self.patches**2).reshape(self.patches, self.patches) + first
        width, height = image.original_size
        side = max(width, height)
        left, top = ((side - width) // 2, (side - height) // 2) if self.image_processor.do_pad else (0, 0)
        seen = (side, side) if self.image_processor.do_pad else (width, height)
        (wide, high), (x, y) = self._resized(seen)
        across, down = seen[0] / wide, seen[1] / high
        region = (x * across - left, y * down - top, (x + self.side) * across - left, (y + self.side) * down - top)
        return Cells(tokens=tokens, region=region)

    def _square(self, image: Image.Image) -> Image.Image:
        resized, (left, top) = self._resized(image.size)
        return image.resize(resized, self.resampling).crop((left, top, left + self.side, top + self.side))

    def _resized(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return an image's (width, height) after resizing, and left and top of the square cropped from it."""
        short = self.image_processor.size.shortest_edge
        if not short:
            return (self.side, self.side), (0, 0)
        width, height = (int(short * length / min(size)) for length in size)
        return (width, height), ((width - self.side) // 2, (height - self.side) // 2)

    def _padded(self, image: Image.Image) -> Image.Image:
        longest = max(image.size)
        if longest > PADDED_SIDES * self.side:  # without this a long strip would need its length squared in memory
            image = image.reduce(-(-longest // (PADDED_SIDES * self.side)))
        side = max(image.size)
        mean = tuple(int(value * 255) for value in self.image_processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


FAMILY = Family(model_type="llava", reader=LlavaReader, vision=VISION, language_linear=LANGUAGE_LINEAR)
