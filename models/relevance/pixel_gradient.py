"""pure-grad: the pixels that the answer depends on (ViCrop, arXiv 2502.17422).

The map is ‖∂v/∂pixels‖ over channels with v = log p(likeliest token), under a mask of the picture's edges.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import Family, PreparedImage
from scanfleet.models.relevance.gradients import answer_direction, differentiable
from scanfleet.models.relevance.prompt_runner import PromptRunner

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava")  # each visual token stands for one cell of the picture

_GAUSSIAN = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))
_CHANNELS = 3


@torch.inference_mode(False)
def pixel_gradient(runner: PromptRunner, image: PreparedImage) -> NDArray[np.float32]:
    """Compute the gradient's norm for each token, by one forward and one backward pass.

    Works for the families that `check_family` accepts. It keeps the activations of all layers in memory, as training
    does.

    Args:
        runner: runs the prompt.
        image: the prepared image.

    Returns:
        [visual_tokens] fp32, the mean norm over each token's pixels.
    """
    base = runner.base
    with differentiable(base), runner.prepared([image]) as forward, torch.enable_grad():
        pixels = forward.rows.inputs["pixel_values"].detach().requires_grad_()
        inputs = forward.inputs | {"pixel_values": pixels}
        hidden = base.processor.reader.hidden(forward.network, inputs)[:, forward.rows.last[0]]
        direction = answer_direction(hidden.detach(), *runner.output)
        (grad,) = torch.autograd.grad(hidden, pixels, direction.to(hidden.dtype))
    return _by_token(grad.float(), runner, image)


def edges(image: PreparedImage, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Compute the share of each cell's pixels that lie at an edge.

    The grey picture minus its 3 x 3 Gaussian is filtered by a 7 x 7 median. Pixels over the median of the result count.

    Args:
        image: the prepared image.
        shape: rows and columns of the result.

    Returns:
        [rows, columns] fp32 in 0..1.
    """
    grey = Image.fromarray(_picture(image)).convert("L")
    sharp = ImageChops.difference(grey, grey.filter(_GAUSSIAN))
    found = np.asarray(sharp.filter(ImageFilter.MedianFilter(7)))
    at_edge: NDArray[np.float32] = (found > np.median(found)).astype(np.float32)
    return _blocks(at_edge, shape[0], shape[1])


def check_family(family: Family) -> None:
    """Check that each visual token of a family stands for a part of the picture.

    Raises:
        ModelInvalid: it does not.
    """
    if family.model_type not in FAMILIES:
        raise ModelInvalid(
            f"pure-grad does not support {family.model_type} models, whose tokens have no pixels of their own: use "
            "rel-att or grad-att"
        )


def _by_token(grad: torch.Tensor, runner: PromptRunner, image: PreparedImage) -> NDArray[np.float32]:
    """Return the mean norm per token, [visual_tokens].

    Qwen lays out [patches, channels * patch²] with the patches of a merged token in sequence; other families use a
    square.
    """
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
    """Return the pixels [height, width, 3] as the model reads them."""
    pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[0].permute(1, 2, 0)
    return pixels.contiguous().numpy()


def _blocks(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Map [height, width] to [rows, columns]: the mean over each cell."""
    height, width = values.shape[0] // rows, values.shape[1] // columns
    parts = values[: rows * height, : columns * width].reshape(rows, height, columns, width)
    found: NDArray[np.float32] = parts.mean((1, 3), dtype=np.float32)
    return found
