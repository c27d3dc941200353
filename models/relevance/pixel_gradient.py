"""pure-grad: which pixels the answer hangs on, and where in the picture there is something to see (ViCrop, arXiv
2502.17422): ‖∂v/∂pixels‖ over channels, v = log p(likeliest token), and an edge mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from models.errors import ModelInvalid
from models.families import Family, PreparedImage
from models.relevance.gradients import answer_direction, differentiable
from models.relevance.prompt_runner import PromptRunner

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava")  # whose image is one picture, cut into a token a cell

_GAUSSIAN = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))
_CHANNELS = 3


@torch.inference_mode(False)
def pixel_gradient(runner: PromptRunner, image: PreparedImage) -> NDArray[np.float32]:
    """(visual tokens,): the mean of the gradient's norm over each token's pixels; one forward and one way back.

    Of the families that `check_family` lets through. It holds what all layers computed at once, as training does.
    """
    base = runner.base
    with differentiable(base), runner.prepared([image]) as forward, torch.enable_grad():
        pixels = forward.rows.inputs["pixel_values"].detach().requires_grad_()
        inputs = forward.inputs | {"pixel_values": pixels}
        hidden = base.processor.reader.hidden(forward.network, inputs)[:, forward.rows.last[0]]
        way = answer_direction(hidden.detach(), *runner.output)
        (grad,) = torch.autograd.grad(hidden, pixels, way.to(hidden.dtype))
    return _by_token(grad.float(), runner, image)


def edges(image: PreparedImage, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(rows, columns) = shape: the share of each cell's pixels that lie at an edge.

    What is left of the grey picture without its 3 x 3 Gaussian, the median of that over 7 x 7, and of it what is over
    the median of the whole.
    """
    grey = Image.fromarray(_picture(image)).convert("L")
    sharp = ImageChops.difference(grey, grey.filter(_GAUSSIAN))
    found = np.asarray(sharp.filter(ImageFilter.MedianFilter(7)))
    at_edge: NDArray[np.float32] = (found > np.median(found)).astype(np.float32)
    return _blocks(at_edge, shape[0], shape[1])


def check_family(family: Family) -> None:
    """Raises ModelInvalid for a family that does not give each token a part of the picture of its own."""
    if family.model_type not in FAMILIES:
        raise ModelInvalid(
            f"pure-grad does not know which pixels a token of a {family.model_type} model stands for: use rel-att or "
            "grad-att"
        )


def _by_token(grad: torch.Tensor, runner: PromptRunner, image: PreparedImage) -> NDArray[np.float32]:
    """In Qwen's layout the rows of one merged token follow each other: (patches, channels * patch²); else a square."""
    if grad.ndim == 2:
        norms = grad.view(image.visual_tokens, -1, _CHANNELS, grad.shape[1] // _CHANNELS).norm(dim=2)
        found: NDArray[np.float32] = norms.flatten(1).mean(1).cpu().numpy()
        return found
    tokens = runner.base.processor.reader.cells(image).tokens
    blocks = _blocks(grad[0].norm(dim=0).cpu().numpy(), *tokens.shape)
    values = np.zeros(image.visual_tokens, np.float32)
    values[tokens[tokens >= 0]] = blocks[tokens >= 0]
    return values


def _picture(image: PreparedImage) -> NDArray[np.uint8]:
    """(height, width, 3), as the model reads it."""
    pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[0].permute(1, 2, 0)
    return pixels.contiguous().numpy()


def _blocks(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """(height, width) -> (rows, columns): the mean over each cell."""
    height, width = values.shape[0] // rows, values.shape[1] // columns
    parts = values[: rows * height, : columns * width].reshape(rows, height, columns, width)
    found: NDArray[np.float32] = parts.mean((1, 3), dtype=np.float32)
    return found
