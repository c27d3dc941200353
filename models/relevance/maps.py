"""Relevance maps: the parts of an image that the answer came from (ViCrop, arXiv 2502.17422).

    rel-att     A_task / (A_reference + 1e-6)                attention of the answer position
    grad-att    mean over heads of A · relu(∂v/∂A)           v = log p(likeliest token)   `models.relevance.grad_att`
    pure-grad   ‖∂v/∂pixels‖, task over reference, at edges  `models.relevance.pixel_gradient`

Cost is counted in visual tokens of the language model, as for the first pass; a backward pass counts twice. The
reference "blank" is an image of the processor's mean colour with the same grid. It is read once and kept, and its cost
is counted apart (`Mapper.blank_tokens`), so that an image costs the same whatever came before it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.attention import attention_modules
from scanfleet.models.relevance.grad_att import attention_gradient
from scanfleet.models.relevance.grid import extend_to_image
from scanfleet.models.relevance.pixel_gradient import check_family, edges, pixel_gradient
from scanfleet.models.relevance.prompt_runner import PromptRunner
from scanfleet.models.relevance.regions import Method, Reference, Relevance

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel
    from scanfleet.models.scoring.prefill import PrefillScorer

GENERIC = "Write a general description of the image."
FLOOR = 1e-6  # added to the divisor
AT_ONCE = 8192  # visual tokens of one forward
KEPT_BLANKS = 512  # grids

Values = NDArray[np.float32]  # [visual_tokens]


class Mapper:
    """Makes one kind of map for one scorer. `maps` needs a device thread; several threads may call it at once.

    Args:
        base: the loaded base model.
        scorer: the maps explain its answers.
        method: of the maps.
        reference: the divisor of rel-att and pure-grad.
        layers: of the language model, 0-based; empty: the middle third.

    Raises:
        ModelInvalid: the model cannot give such a map, or lacks a layer.
    """

    def __init__(
        self, *, base: BaseModel, scorer: PrefillScorer, method: Method, reference: Reference, layers: tuple[int, ...]
    ) -> None:
        self._reader = base.processor.reader
        self._method, self._reference, self._layers = method, reference, layers
        self._task = PromptRunner(base=base, scorer=scorer, turn=scorer.prompt.turn)
        self._generic = PromptRunner(base=base, scorer=scorer, turn=_generic_turn(base, scorer))
        self._blanks = Blanks()
        self._reader.cells(scorer.prepare(Image.new("RGB", (64, 64))))
        if method == "pure-grad":
            check_family(base.family)
        else:
            attention_modules(base.network, base.family, layers)

    @property
    def blank_tokens(self) -> int:
        """Visual tokens of all blank images read so far."""
        return self._blanks.tokens

    def cost(self, image: PreparedImage, attention: NDArray[np.float32] | None) -> int:
        """Return the cost of one image's map in visual tokens, without that of a blank image.

        Args:
            image: the prepared image.
            attention: [visual_tokens] fp32, recorded in the first pass; None: not recorded.
        """
        passes = {"rel-att": 1, "grad-att": 1, "pure-grad": 3}[self._method]
        task = 0 if self._method == "rel-att" and _of(image, attention) is not None else passes
        divided = self._method != "grad-att" and self._reference == "generic"
        return image.visual_tokens * (task + passes * divided)

    def maps(self, images: Sequence[PreparedImage], attention: Sequence[NDArray[np.float32] | None]) -> list[Relevance]:
        """Compute one map per image, over the whole of it. A map does not depend on its neighbours.

        Args:
            images: prepared images.
            attention: [visual_tokens] fp32 per image, recorded in the first pass under the same layers (`Reading`), or
                None. With it, rel-att needs no prefill.

        Returns:
            One map per image, in order.

        Raises:
            ModelInvalid: the family's visual tokens have no place in the image.
        """
        cells = [self._reader.cells(image) for image in images]
        found = {"rel-att": self._rel_att, "grad-att": self._grad_att, "pure-grad": self._pure_grad}
        values = found[self._method](images, [_of(*pair) for pair in zip(images, attention, strict=True)])
        made = []
        for image, seen, place, own in zip(images, attention, cells, values, strict=True):
            grid = np.where(place.tokens >= 0, own[place.tokens], np.float32(0))
            if self._method == "pure-grad":
                grid = grid * edges(image, grid.shape)
            whole = extend_to_image(grid, place.region, image.original_size)
            made.append(Relevance(values=whole, size=image.original_size, tokens=self.cost(image, seen)))
        return made

    def _rel_att(self, images: Sequence[PreparedImage], attention: Sequence[Values | None]) -> list[Values]:
        missing = [image for image, seen in zip(images, attention, strict=True) if seen is None]
        computed = self._attention(self._task, missing)
        task = [next(computed) if seen is None else seen for seen in attention]
        if self._reference == "generic":
            reference = list(self._attention(self._generic, images))
        else:
            reference = [self._blank(image, self._blank_attention) for image in images]
        return [own / (other + FLOOR) for own, other in zip(task, reference, strict=True)]

    def _attention(self, runner: PromptRunner, images: Sequence[PreparedImage]) -> Iterator[Values]:
        for batch in _batches(images):
            yield from runner.attention(batch, self._layers)

    def _blank_attention(self, blank: PreparedImage) -> Values:
        return self._task.attention([blank], self._layers)[0]

    def _grad_att(self, images: Sequence[PreparedImage], attention: Sequence[Values | None]) -> list[Values]:
        layers, found = self._layers, list[Values]()
        for batch in _batches(images):
            found += attention_gradient(self._task, batch, layers)
        return found

    def _pure_grad(self, images: Sequence[PreparedImage], attention: Sequence[Values | None]) -> list[Values]:
        found = []
        for image in images:
            task = pixel_gradient(self._task, image)
            if self._reference == "generic":
                reference = pixel_gradient(self._generic, image)
            else:
                reference = self._blank(image, lambda blank: pixel_gradient(self._task, blank))
            found.append(task / (reference + FLOOR * reference.max() + np.finfo(np.float32).tiny))
        return found

    def _blank(self, image: PreparedImage, read: Callable[[PreparedImage], Values]) -> Values:
        blank = replace(image, pixels=_mean_colour(image.pixels, self._reader.image_processor.image_mean))
        passes = 3 if self._method == "pure-grad" else 1
        return self._blanks.get(blank, read, passes * blank.visual_tokens)


class Blanks:
    """The maps of blank images by their grids; the least recently used are dropped. Thread-safe."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[object, ...], Values] = OrderedDict()
        self._lock = threading.Lock()
        self.tokens = 0

    def get(self, blank: PreparedImage, read: Callable[[PreparedImage], Values], tokens: int) -> Values:
        """Return the map of a blank image, computed alone so that it does not depend on other images.

        Args:
            blank: the prepared blank image.
            read: computes the map, [visual_tokens] fp32.
            tokens: the cost of `read`, in visual tokens.

        Returns:
            [visual_tokens] fp32.
        """
        key = (tuple(blank.pixels.shape), blank.grid, blank.visual_tokens)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        values = read(blank)  # two threads may do so at once, with the same result
        with self._lock:
            self.tokens += tokens
            self._found[key] = values
            while len(self._found) > KEPT_BLANKS:
                self._found.popitem(last=False)
        return values


def _of(image: PreparedImage, attention: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return the attention if its length fits: an image decoded at another size may have another grid."""
    return attention if attention is not None and len(attention) == image.visual_tokens else None


def _batches(images: Sequence[PreparedImage]) -> Iterator[list[PreparedImage]]:
    """Yield the images in order, in batches of the visual tokens that one forward takes."""
    batch: list[PreparedImage] = []
    for image in images:
        if batch and (len(batch) + 1) * max(each.visual_tokens for each in [*batch, image]) > AT_ONCE:
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _mean_colour(pixels: torch.Tensor, mean: Sequence[float]) -> torch.Tensor:
    """Return uint8 pixels [..., 3], or tiles [tiles, 3, side, side], of one colour."""
    colour = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
    return (colour if pixels.shape[-1] == 3 else colour[:, None, None]).expand(pixels.shape).contiguous()


def _generic_turn(base: BaseModel, scorer: PrefillScorer) -> Turn:
    """Render a turn with a generic instruction, which also ends where the answer would begin."""
    return base.processor.turn(GENERIC, image_first=scorer.question.image_first)
