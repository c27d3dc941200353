"""Cut the part of an image that the crop pass reads, from all its pixels. Knows no model."""

from __future__ import annotations

import math

from PIL import Image

from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Pointed

SLIMMEST = 4  # long side of a crop over its short one, unless the image leaves no choice


def region_of(pointed: Pointed, size: tuple[int, int]) -> Region | None:
    """Return the region of `pointed` in the same image at another size: within the image and never empty.

    Args:
        pointed: the region in pixels of `pointed.size`.
        size: (width, height) of the image to cut from.

    Returns:
        The region, or None if `pointed` has none.
    """
    if pointed.corners is None:
        return None
    x0, y0, x1, y1 = pointed.corners
    left, right = _between(x0, x1, pointed.size[0], size[0])
    top, bottom = _between(y0, y1, pointed.size[1], size[1])
    return Region(x0=left, y0=top, x1=right, y1=bottom)


def cut(image: Image.Image, region: Region, *, pixels: int) -> Image.Image:
    """Cut a region in RGB, and magnify it to about `pixels` if it has fewer.

    Magnification is what helps: processors only shrink, and a target smaller than the tower's patches is as good as
    invisible (ViCrop, arXiv 2502.17422, section 4.3). A strip is widened to a quarter of its length first.

    Args:
        image: with all its pixels.
        region: in pixels of the image.
        pixels: upper bound of the magnified crop; a larger crop keeps its size.
    """
    crop = image.crop(_widened(region, image.size).corners).convert("RGB")
    larger = math.sqrt(pixels / (crop.width * crop.height))
    if larger <= 1:
        return crop
    return crop.resize((int(crop.width * larger), int(crop.height * larger)), Image.Resampling.LANCZOS)


def _between(start: int, end: int, seen: int, length: int) -> tuple[int, int]:
    """Convert start..end on a line of `seen` pixels to a line of `length` pixels."""
    begin = min(max(0, round(start * length / seen)), length - 1)
    return begin, max(begin + 1, min(length, round(end * length / seen)))


def _widened(region: Region, size: tuple[int, int]) -> Region:
    least = max(region.width, region.height) // SLIMMEST
    x0, x1 = _at_least(region.x0, region.x1, least, size[0])
    y0, y1 = _at_least(region.y0, region.y1, least, size[1])
    return Region(x0=x0, y0=y0, x1=x1, y1=y1)


def _at_least(start: int, end: int, least: int, length: int) -> tuple[int, int]:
    """Extend start..end to `least` around its middle, within 0..length."""
    long = min(max(end - start, least), length)
    begin = min(max(0, (start + end - long) // 2), length - long)
    return begin, begin + long
