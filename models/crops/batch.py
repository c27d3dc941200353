"""The crop pass for callers without a fleet: every image is read again, in batches of one forward's size.

The caller decides which images are worth it, and what the pass may cost. This module knows scorers and crop readers
only by their protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from scanfleet.models.crops.cutting import region_of
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import CropReader, Pointed, Prepared, Reading, Scorer

BATCH_TOKENS = 8192  # visual tokens of one forward, padding included


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoPassReading:
    """Both passes over one image.

    Attributes:
        first: the reading of the first pass.
        second: the reading of each row of the crop pass; empty if no region was found.
        fused: the answer from both passes.
        pointed: the crop reader's answer to where the crop lies; None for a pass without a region.
        region: the same in pixels of the given image.
        tokens: visual tokens of the crop pass, maps included.
    """

    first: Reading
    second: tuple[Reading, ...]
    fused: Reading
    pointed: Pointed | None
    region: Region | None
    tokens: int


def run_crop_pass(
    scorer: Scorer,
    crop_reader: CropReader,
    images: Sequence[Image.Image],
    firsts: Sequence[Reading],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> list[TwoPassReading]:
    """Read every image again.

    Args:
        scorer: reads the rows of the crop pass.
        crop_reader: finds the regions, prepares the rows and fuses the readings.
        images: with all their pixels.
        firsts: the scorer's readings of these images.
        batch_tokens: visual tokens of one forward, padding included.

    Returns:
        One entry per image, in order.

    Raises:
        ImageUnsuitable: the model cannot read one of the images.
    """
    pointed = _pointed(crop_reader, images, firsts, batch_tokens)
    rows = [crop_reader.rows(image, at) for image, at in zip(images, pointed, strict=True)]
    every = [row for own in rows for row in own]
    readings: dict[int, Reading] = {}
    for batch in packed(every, batch_tokens):
        readings |= zip(batch, scorer.score([every[number] for number in batch]), strict=True)
    left = iter(range(len(every)))
    seconds = [tuple(readings[next(left)] for _ in own) for own in rows]
    return [
        _two_pass_reading(crop_reader, image, first, second, at)
        for image, first, second, at in zip(images, firsts, seconds, pointed, strict=True)
    ]


def _pointed(
    crop_reader: CropReader, images: Sequence[Image.Image], firsts: Sequence[Reading], batch_tokens: int
) -> list[Pointed | None]:
    if not crop_reader.pointed:
        return [None] * len(images)
    views = [crop_reader.views(image, first) for image, first in zip(images, firsts, strict=True)]
    found: dict[int, Pointed] = {}
    for batch in packed(views, batch_tokens):
        found |= zip(batch, crop_reader.point([views[number] for number in batch]), strict=True)
    return [found[number] for number in range(len(images))]


def _two_pass_reading(
    crop_reader: CropReader, image: Image.Image, first: Reading, second: tuple[Reading, ...], pointed: Pointed | None
) -> TwoPassReading:
    return TwoPassReading(
        first=first,
        second=second,
        fused=crop_reader.fuse(first, second),
        pointed=pointed,
        region=None if pointed is None else region_of(pointed, image.size),
        tokens=sum(reading.visual_tokens for reading in second) + (0 if pointed is None else pointed.tokens),
    )


def packed(items: Sequence[Prepared], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices of the items for one forward each.

    Items of similar length share a forward, padded to the longest, within the budget. An item over the budget goes
    alone.

    Args:
        items: prepared rows.
        batch_tokens: visual tokens of one forward, padding included.
    """
    batch: list[int] = []
    for number in sorted(range(len(items)), key=lambda number: -items[number].visual_tokens):
        if batch and items[batch[0]].visual_tokens * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
