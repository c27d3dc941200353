"""The crop pass from end to end: views for the map, the region, the rows to read there, and the fused answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.crops.cutting import cut, region_of
from scanfleet.models.crops.emphasis import emphasised
from scanfleet.models.crops.fusion import fused
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.crops.whole_image import whole_image_rows
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import PreparedImage, PreparedRow, Row
from scanfleet.models.relevance.maps import Mapper
from scanfleet.models.relevance.regions import Region, Relevance
from scanfleet.models.relevance.select import choose
from scanfleet.models.relevance.tiles import join, tiles_of
from scanfleet.models.types import Detail, Pointed, Reading

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel
    from scanfleet.models.scoring.prefill import PrefillScorer


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """The input of the relevance map of one image.

    Attributes:
        images: the whole image, or its tiles.
        regions: the place of each of `images`, in pixels of the image.
        attention: [visual_tokens] fp32, of the first pass to the whole image, if it was recorded.
        size: (width, height) of the image in pixels.
        visual_tokens: the cost of the maps; 1 if they cost nothing.
    """

    images: tuple[PreparedImage, ...]
    regions: tuple[Region, ...]
    attention: NDArray[np.float32] | None
    size: tuple[int, int]
    visual_tokens: int


class PolicyCropReader:
    """Reads crops by a `CropPolicy`, over a scorer that shares its base. Implements `models.types.CropReader`.

    Args:
        base: the loaded base model.
        scorer: reads the rows; its question is the crop reader's.
        policy: where the pass reads, and how.

    Raises:
        ModelInvalid: the model cannot read what the policy asks for.
    """

    def __init__(self, *, base: BaseModel, scorer: PrefillScorer, policy: CropPolicy) -> None:
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
        """Tiles need the image's own resolution; a map of the whole image needs that of the first pass."""
        return None if self._policy.tiled else self._scorer.detail

    def views(self, image: Image.Image, first: Reading) -> Views:
        """Prepare the images whose relevance maps find the region.

        Args:
            image: with the pixels that `views_detail` asks for.
            first: the first pass's reading of it.

        Raises:
            ImageUnsuitable: the model cannot read the image.
            ModelInvalid: the policy needs no region.
        """
        mapper = self._mapping()
        whole = Region(x0=0, y0=0, x1=image.width, y1=image.height)
        regions = tuple(tiles_of(image.size)) if self._policy.tiled else (whole,)
        images = tuple(self._scorer.prepare(image.crop(region.corners)) for region in regions)
        attention = first.attention if regions == (whole,) else None
        cost = sum(mapper.cost(view, attention) for view in images)
        return Views(images=images, regions=regions, attention=attention, size=image.size, visual_tokens=max(1, cost))

    def point(self, views: Sequence[Views]) -> list[Pointed]:
        """Compute the maps of all images in one batch, and return the region of each.

        Raises:
            ModelInvalid: the policy needs no region.
        """
        images = [image for view in views for image in view.images]
        attention = [view.attention for view in views for _ in view.images]
        maps = iter(self._mapping().maps(images, attention))
        return [_pointed(view, [next(maps) for _ in view.images]) for view in views]

    def rows(self, image: Image.Image, pointed: Pointed | None) -> Sequence[Row]:
        """Prepare the rows of the crop pass.

        Args:
            image: with all its pixels.
            pointed: the region from `point`; None for a policy without one.

        Returns:
            One row, or one per tile; empty if no region was found.

        Raises:
            ImageUnsuitable: the model cannot read the image.
        """
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
        """Visual tokens of the blank reference images so far: one for each grid, shared by all images."""
        return 0 if self._mapper is None else self._mapper.blank_tokens

    def fuse(self, first: Reading, second: Sequence[Reading]) -> Reading:
        return fused(first, second, how=self._policy.fuse, question=self._scorer.question)

    def _mapping(self) -> Mapper:
        if self._mapper is None:
            raise ModelInvalid(f"the look {self._policy.look} needs no region: call rows directly")
        return self._mapper

    def _prepared(self, image: Image.Image, pixels: int) -> PreparedImage:
        return self._reader.prepare(image, max_pixels=pixels, min_pixels=self._scorer.question.min_pixels)

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
