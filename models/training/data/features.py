"""Image inputs of a training's forwards: pixels, or the frozen vision tower's output, computed once and kept on disk.

The tower's output (with Qwen3-VL's deepstack features) comes from the family's own `get_image_features`. It is passed
to the network's forward as `mm_encoder_outputs`, with the same rows, tokens and positions as in serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.families import ImageReader, PreparedImage
from scanfleet.models.inputs.processing import Rows, VisionProcessor
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.base import BaseModel
from scanfleet.models.training.data.feature_cache import Bounded, FeatureCache, Features, OnRead
from scanfleet.models.training.data.mixing import Mix
from scanfleet.models.training.data.sampler import SampleId
from scanfleet.models.training.data.samples import Samples

LISTED, STACKED = "listed", "stacked"  # forms in which a family gives the tower's output
NOT_CACHED = {
    "instructblip": "its Q-Former reads the instruction with the image",
    "llava_next": "its reader arranges the tiles between tower and language model",
    "phi4_multimodal": "its tower is part of the embedding of all tokens",
}


class Fillable(Protocol):
    """Images that are prepared before the first step."""

    def fill(self, samples: Samples, sample_ids: Sequence[SampleId], on_read: OnRead) -> dict[SampleId, int]:
        """Prepare images.

        Args:
            samples: Opens and prepares the images.
            sample_ids: Images to prepare.
            on_read: Called while images are read.

        Returns:
            Tokens of each image, without those that the model cannot take.
        """
        ...


class Source(Fillable, Protocol):
    """Images as the inputs of a forward."""

    def rows(self, samples: Samples, sample_ids: Sequence[SampleId], turn: Turn, mix: Mix | None = None) -> Rows:
        """Return the inputs of one forward.

        Args:
            samples: Opens and prepares the images.
            sample_ids: Images of the forward.
            turn: The rendered user turn.
            mix: How each image is mixed with the next one; None: not at all.
        """
        ...


class PixelSource:
    """Implements `Source` with pixels, prepared again where memory does not hold them.

    The tower runs in every forward.
    """

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._held = Bounded()

    def fill(self, samples: Samples, sample_ids: Sequence[SampleId], on_read: OnRead) -> dict[SampleId, int]:
        """Prepare each image once and count its tokens."""
        sizes: dict[SampleId, int] = {}
        for sample_id in sample_ids:
            try:
                sizes[sample_id] = len(self._prepared(samples, sample_id).tokens)
            except ImageUnsuitable:
                continue
            on_read()
        return sizes

    def rows(self, samples: Samples, sample_ids: Sequence[SampleId], turn: Turn, mix: Mix | None = None) -> Rows:
        """Return the inputs of one forward, with pixels."""
        base = self._base
        if mix is None:
            images = [self._prepared(samples, sample_id) for sample_id in sample_ids]
        else:
            pictures = [samples.image(sample_id) for sample_id in sample_ids]
            images = [samples.prepare(mix.of(*pair)) for pair in zip(pictures, mix.partners(pictures), strict=True)]
        return base.processor.rows(turn, images, device=base.device, dtype=base.network.dtype)

    def _prepared(self, samples: Samples, sample_id: SampleId) -> PreparedImage:
        name = samples.name(sample_id)
        image: PreparedImage | None = self._held.get(name)
        if image is None:
            image = samples.prepared(sample_id)
            self._held.put(name, image, image.pixels.nbytes)
        return image


class CachedSource:
    """Implements `Source` with the tower's output from a folder; its images cannot be mixed.

    Args:
        base: The loaded base model.
        folder: Folder of the cache.
    """

    def __init__(self, base: BaseModel, folder: Path) -> None:
        identity = [base.checkpoint.revision, base.precision, str(base.network.dtype)]
        self.cache = FeatureCache(folder, identity, lambda images: image_features(base, images))
        self._base = base
        own = base.processor
        reader = _CachedReader(own.reader)
        self._processor = VisionProcessor(tokenizer=own.tokenizer, reader=reader, chat_template=own.chat_template)

    def fill(self, samples: Samples, sample_ids: Sequence[SampleId], on_read: OnRead) -> dict[SampleId, int]:
        """Compute the tower's output of images that are not cached yet."""
        return self.cache.fill(samples, sample_ids, on_read)

    def rows(self, samples: Samples, sample_ids: Sequence[SampleId], turn: Turn, mix: Mix | None = None) -> Rows:
        """Return the inputs of one forward, with the tower's output in place of pixels."""
        assert mix is None
        base = self._base
        images = [self.cache.image(samples.name(sample_id)) for sample_id in sample_ids]
        return self._processor.rows(turn, images, device=base.device, dtype=base.network.dtype)


class _CachedReader(ImageReader):
    """A reader of images whose tower output is in `PreparedImage.extra`."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader

    def prepare(self, image: Any, *, max_pixels: int, min_pixels: int | None) -> PreparedImage:
        return self._reader.prepare(image, max_pixels=max_pixels, min_pixels=min_pixels)

    def positions(
        self, *, before: int, rows: Sequence[Sequence[PreparedImage]], between: int, width: int
    ) -> torch.Tensor:
        return self._reader.positions(before=before, rows=rows, between=between, width=width)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return `mm_encoder_outputs`, which the network's own forward takes in place of pixels."""
        return {"mm_encoder_outputs": {"image": joined([image.extra for image in images], device, dtype)}}


@torch.no_grad()
def image_features(base: BaseModel, images: Sequence[PreparedImage]) -> list[Features]:
    """Run the tower and the projector over images.

    Args:
        base: The loaded base model.
        images: Prepared images with pixels.

    Returns:
        For each image the pieces of the output `[visual tokens, hidden]`, one or one per tile, under "listed.N" or
        "stacked.N" as the family gives them, and under "deepL.N" for each deepstack layer. On the host.
    """
    inputs = base.processor.reader.stack(images, device=base.device, dtype=base.network.dtype)
    out = base.network.base_model.get_image_features(**inputs, return_dict=True)
    pooled = out.pooler_output
    layers = {STACKED if isinstance(pooled, torch.Tensor) else LISTED: pooled}
    layers |= {f"deep{number}": layer for number, layer in enumerate(vars(out).get("deepstack_features") or ())}
    found: list[Features] = [{} for _ in images]
    for key, pieces in layers.items():
        counts = [1 if len(pieces) == len(images) else len(image.pixels) for image in images]
        assert sum(counts) == len(pieces)
        at = 0
        for features, count in zip(found, counts, strict=True):
            for piece in range(count):
                features[f"{key}.{piece}"] = pieces[at + piece].cpu().contiguous()
            at += count
    return found


def joined(images: Sequence[Features], device: torch.device, dtype: torch.dtype) -> SimpleNamespace:
    """Combine the pieces of several images into one output of `get_image_features`.

    Args:
        images: Features as `image_features` returns them, pieces `[visual tokens, hidden]`.
        device: Where the tensors go.
        dtype: Their floating type.
    """

    def pieces(layer: str) -> list[torch.Tensor]:
        return [
            features[f"{layer}.{piece}"].to(device, dtype)
            for features in images
            for piece in range(sum(key.startswith(f"{layer}.") for key in features))
        ]

    deep = sorted({key.split(".")[0] for key in images[0] if key.startswith("deep")}, key=lambda key: int(key[4:]))
    listed = pieces(LISTED)
    return SimpleNamespace(
        pooler_output=listed or torch.stack(pieces(STACKED)), deepstack_features=[pieces(layer) for layer in deep]
    )
