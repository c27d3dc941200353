"""A second look from end to end: what is looked through, where that points, what is read there, and both as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.crops.cutting import cut, region_of
from models.crops.emphasis import emphasised
from models.crops.fusion import fused
from models.crops.policy import CropPolicy
from models.crops.whole_image import whole_image_rows
from models.errors import ModelInvalid
from models.families import PreparedImage, PreparedRow, Row
from models.relevance.maps import Mapper
from models.relevance.regions import Region, Relevance
from models.relevance.select import choose
from models.relevance.tiles import join, tiles_of
from models.types import Detail, Pointed, Reading

if TYPE_CHECKING:
    from models.network.base import BaseModel
    from models.scoring.prefill import PrefillScorer


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """What is looked through for a region of an image of `size` (width, height) pixels.

    images: the whole one, or its tiles, which lie at `regions`. attention: of the first look to the whole image, where
    it was recorded. visual_tokens: what the maps cost; 1 where they cost nothing.
    """

    images: tuple[PreparedImage, ...]
    regions: tuple[Region, ...]
    attention: NDArray[np.float32] | None
    size: tuple[int, int]
    visual_tokens: int


class PolicyCropReader:
    """Implements `models.types.CropReader` by a policy, over a scorer that shares its base."""

    def __init__(self, *, base: BaseModel, scorer: PrefillScorer, policy: CropPolicy) -> None:
        """Raises ModelInvalid for a look that the model cannot take, now and not at the first image."""
        self._reader = base.processor.reader
        self._scorer = scorer
        self._policy = policy
        if policy.look == "pair":
            base.processor.check_pairs(scorer.prompt.turn)
        if policy.pointed:
            self._reader.cells(scorer.prepare(Image.new("RGB", (64, 64))))
        self._mapper = (
            Mapper(base=base, scorer=scorer, method=policy.method, reference=policy.reference, layers=policy.layers)
            if policy.pointed
            else None
        )

    @property
    def pointed(self) -> bool:
        return self._policy.pointed

    @property
    def views_detail(self) -> Detail | None:
        """Tiles are of the image's own resolution; a map of the whole is one of what the first look read."""
        return None if self._policy.tiled else self._scorer.detail

    def views(self, image: Image.Image, first: Reading) -> Views:
        """Raises ImageUnsuitable as the scorer's `prepare` does."""
        mapper = self._mapping()
        whole = Region(x0=0, y0=0, x1=image.width, y1=image.height)
        regions = tuple(tiles_of(image.size)) if self._policy.tiled else (whole,)
        images = tuple(self._scorer.prepare(image.crop(region.corners)) for region in regions)
        attention = first.attention if regions == (whole,) else None
        cost = sum(mapper.cost(view, attention) for view in images)
        return Views(images=images, regions=regions, attention=attention, size=image.size, visual_tokens=max(1, cost))

    def point(self, views: Sequence[Views]) -> list[Pointed]:
        """The maps of all images in one go; the region that each points at."""
        images = [image for view in views for image in view.images]
        attention = [view.attention for view in views for _ in view.images]
        maps = iter(self._mapping().maps(images, attention))
        return [_pointed(view, [next(maps) for _ in view.images]) for view in views]

    def rows(self, image: Image.Image, pointed: Pointed | None) -> Sequence[Row]:
        """One row, or one a tile; none where nothing was found to look at. Raises ImageUnsuitable as `views` does."""
        policy = self._policy
        if not policy.pointed:
            return whole_image_rows(image, reader=self._reader, question=self._scorer.question, policy=policy)
        assert pointed is not None
        region = region_of(pointed, image.size)
        if region is None:
            return ()
        if policy.look == "reweight":
            return (self._reweighted(image, region),)
        crop = self._prepared(cut(image, region, pixels=policy.crop_pixels), policy.crop_pixels)
        if policy.look == "crop":
            return (crop,)
        return (PreparedRow(images=(self._prepared(image, policy.context_pixels), crop)),)

    @property
    def blank_tokens(self) -> int:
        """Visual tokens of the blank images that maps were divided by so far: one of each grid, for all images."""
        return 0 if self._mapper is None else self._mapper.blank_tokens

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        return fused(first, second, how=self._policy.fuse, question=self._scorer.question)

    def _mapping(self) -> Mapper:
        if self._mapper is None:
            raise ModelInvalid(f"the look {self._policy.look} is not pointed at a region: ask for its rows at once")
        return self._mapper

    def _prepared(self, image: Image.Image, pixels: int) -> PreparedImage:
        least = min(self._scorer.question.min_pixels, pixels)
        return self._reader.prepare(image, max_pixels=pixels, min_pixels=least)

    def _reweighted(self, image: Image.Image, region: Region) -> PreparedRow:
        whole = self._scorer.prepare(image)
        return emphasised(whole, region, cells=self._reader.cells(whole), factor=self._policy.emphasis)


def _pointed(views: Views, maps: Sequence[Relevance]) -> Pointed:
    relevance = maps[0] if len(views.images) == 1 else join(maps, views.regions, views.size)
    choice = choose(relevance)
    return Pointed(
        corners=None if choice.region is None else choice.region.corners,
        size=relevance.size,
        sharpness=choice.sharpness,
        why_not=choice.why_not,
        tokens=relevance.tokens,
    )
