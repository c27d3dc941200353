"""Relevance maps: which parts of an image the answer came from (ViCrop, arXiv 2502.17422).

    rel-att     A_task / (A_reference + 1e-6)                attention of the answer position
    grad-att    mean over heads of A · relu(∂v/∂A)           v = log p(likeliest token)   `models.relevance.grad_att`
    pure-grad   ‖∂v/∂pixels‖, task over reference, at edges  `models.relevance.pixel_gradient`

Cost is counted in the visual tokens that the language model reads, as a first look's is; a way back counts twice. The
reference "blank" is an image of the processor's mean colour with the same grid: read once, then kept, and counted apart
(`Mapper.blank_tokens`), so that an image costs the same whatever came before it.
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

from models.families import PreparedImage
from models.inputs.prompts import Turn, render_turn
from models.network.attention import attention_modules
from models.relevance.grad_att import attention_gradient
from models.relevance.grid import extend_to_image
from models.relevance.pixel_gradient import check_family, edges, pixel_gradient
from models.relevance.prompt_runner import PromptRunner
from models.relevance.regions import Method, Reference, Relevance

if TYPE_CHECKING:
    from models.network.base import BaseModel
    from models.scoring.prefill import PrefillScorer

GENERIC = "Write a general description of the image."
FLOOR = 1e-6  # of the attention that is divided by
AT_ONCE = 8192  # visual tokens of one forward
KEPT_BLANKS = 512  # grids

Values = NDArray[np.float32]  # (visual tokens,) or, of pixels, (rows, columns)


class Mapper:
    """Makes one kind of map for one scorer. `maps` belongs to a device thread; several may call it at once."""

    def __init__(
        self, *, base: BaseModel, scorer: PrefillScorer, method: Method, reference: Reference, layers: tuple[int, ...]
    ) -> None:
        """Raises ModelInvalid for a model that gives no such map, or for layers that it lacks."""
        self._reader = base.processor.reader
        self._method, self._reference, self._layers = method, reference, layers
        self._task = PromptRunner(base=base, scorer=scorer, turn=scorer.prompt.turn)
        self._generic = PromptRunner(base=base, scorer=scorer, turn=_generic_turn(base))
        self._blanks = Blanks()
        self._reader.cells(scorer.prepare(Image.new("RGB", (64, 64))))
        if method == "pure-grad":
            check_family(base.family)
        else:
            attention_modules(base.network, base.family, layers)

    @property
    def blank_tokens(self) -> int:
        """Visual tokens of all the blank images that were read so far."""
        return self._blanks.tokens

    def cost(self, image: PreparedImage, attention: NDArray[np.float32] | None) -> int:
        """The tokens of one image's map, without those of a blank."""
        passes = {"rel-att": 1, "grad-att": 1, "pure-grad": 3}[self._method]
        task = 0 if self._method == "rel-att" and _of(image, attention) is not None else passes
        divided = self._method != "grad-att" and self._reference == "generic"
        return image.visual_tokens * (task + passes * divided)

    def maps(self, images: Sequence[PreparedImage], attention: Sequence[NDArray[np.float32] | None]) -> list[Relevance]:
        """One map an image, over the whole of it, the same whatever its neighbours.

        attention: of the first look to the same image under the same layers, where it was recorded (`Reading`): rel-att
        then needs no prefill of its own. Raises ModelInvalid for a family whose tokens have no place in the image.
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
    """What was read of blank images, by their grids; the least recently used are forgotten. For many threads."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[object, ...], Values] = OrderedDict()
        self._lock = threading.Lock()
        self.tokens = 0

    def get(self, blank: PreparedImage, read: Callable[[PreparedImage], Values], tokens: int) -> Values:
        """Of one blank image, by itself, so that it does not matter beside which images it was first asked for."""
        key = (tuple(blank.pixels.shape), blank.grid, blank.visual_tokens)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        values = read(blank)  # two threads may do so at once: both get the same
        with self._lock:
            self.tokens += tokens
            self._found[key] = values
            while len(self._found) > KEPT_BLANKS:
                self._found.popitem(last=False)
        return values


def _of(image: PreparedImage, attention: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """The attention, unless it is another image's: one decoded at another size may have another grid."""
    return attention if attention is not None and len(attention) == image.visual_tokens else None


def _batches(images: Sequence[PreparedImage]) -> Iterator[list[PreparedImage]]:
    """In their order, of as many visual tokens as one forward takes."""
    batch: list[PreparedImage] = []
    for image in images:
        if batch and (len(batch) + 1) * max(each.visual_tokens for each in [*batch, image]) > AT_ONCE:
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _mean_colour(pixels: torch.Tensor, mean: Sequence[float]) -> torch.Tensor:
    """uint8 pixels (..., 3), or tiles (n, 3, side, side), of one colour."""
    colour = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
    return (colour if pixels.shape[-1] == 3 else colour[:, None, None]).expand(pixels.shape).contiguous()


def _generic_turn(base: BaseModel) -> Turn:
    """The same turn with another instruction: it too ends where the answer would begin."""
    processor = base.processor
    return render_turn(
        processor.tokenizer, GENERIC, image_token=processor.reader.image_token, chat_template=processor.chat_template
    )
