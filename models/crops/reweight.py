"""More attention to a region: the image's tokens there count `factor` times in every softmax that comes after them.

Multiplying a token's attention by c before the weights are normalised is adding ln c to its column of the logits, so it
goes into the additive mask that scaled dot-product attention takes anyway. The queries are those after the last image,
the text that ends with the answer position; the images' tokens read each other as ever.

    share of the region = c · m / (1 + (c - 1) · m)      m: its share without, in the first layer exactly

Other rows of the same forward get a mask of zeros where they may look. That is what torch makes of a boolean mask, so
their answers do not change; without an instruction before the image there is no mask otherwise, and they change by
rounding. Without any emphasis in a forward, or with factor 1, there is no additive mask at all.
"""

from __future__ import annotations

import torch

from models.crops.types import Region
from models.errors import ModelInvalid
from models.families import PreparedImage
from models.families.family import PreparedRow

COVERED = 0.5  # share of a token's cell that lies in the region


def emphasised(image: PreparedImage, region: Region, *, factor: float) -> PreparedRow:
    """An image as one row whose tokens in a region, in pixels of the original image, get `factor` times the attention.

    A token is in the region when half of its cell is; where the region covers half of none, the one it covers most of.
    Raises ModelInvalid for a family whose tokens have no place in the image; ValueError for a factor under 1.
    """
    if factor < 1:
        raise ValueError(f"a factor of {factor} would take attention away from the region; use 1 or more")
    shares = _covered(image, region)
    most = float(shares.max())
    return PreparedRow(images=(image,), emphasis=(shares >= min(COVERED, most)) & (shares > 0), factor=factor)


def _covered(image: PreparedImage, region: Region) -> torch.Tensor:
    """The share of each visual token's cell that lies in the region, (visual tokens,)."""
    rows, columns = image.grid
    if rows * columns != image.visual_tokens:
        raise ModelInvalid("attention can be reweighted only where each token of an image stands for one place in it")
    width, height = image.original_size
    across = _overlaps(region.x0 / width * columns, region.x1 / width * columns, columns)
    down = _overlaps(region.y0 / height * rows, region.y1 / height * rows, rows)
    return (down[:, None] * across).flatten()


def _overlaps(start: float, end: float, cells: int) -> torch.Tensor:
    """How much of each of `cells` unit cells in a line lies between start and end, (cells,) in 0..1."""
    first = torch.arange(cells, dtype=torch.float64)
    return ((first + 1).clamp(max=end) - first.clamp(min=start)).clamp(min=0)


def favour(emphasis: torch.Tensor | None, after: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor | None:
    """What is added to the attention logits of a forward, (B, 1, T, T), for `Prefix.inputs`; None: nothing.

    emphasis: (B, T), the logarithm of each token's factor. after: (B,), the first token behind each row's images. Both
    as in `models.processing.Rows`. dtype: of the language model.
    """
    if emphasis is None:
        return None
    asking = torch.arange(emphasis.shape[1], device=after.device) >= after[:, None]
    return torch.where(asking[:, :, None], emphasis[:, None], 0).to(dtype)[:, None]
