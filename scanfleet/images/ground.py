"""The ground under transparent pixels.

It is white, as on a web page, unless what is visible would vanish on it: white text on nothing. What counts is the
contour, the visible pixels beside invisible ones. If over a tenth of it is near white, the ground is black, and if over
a tenth is near black too, whichever of white, black and grey the least of the contour is near to.
"""

from __future__ import annotations

from typing import cast

from PIL import Image, ImageChops

VISIBLE = 32  # of 255, opacity
NEAR = 48  # levels, in the channel that differs most
MOST = 0.1  # of the contour
GROUNDS = {"white": 255, "black": 0, "grey": 128}
STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def lay(layer: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """An RGBA picture on its ground, as RGB, and a note if that is not white."""
    opacity = layer.getchannel("A")
    lowest, highest = cast("tuple[int, int]", opacity.getextrema())
    if lowest == 255:
        return layer.convert("RGB"), ()
    name = _choose(layer, opacity) if highest else "white"
    notes = () if name == "white" else (f"transparent pixels are laid over {name}",)
    if not highest:
        notes = ("all pixels are transparent",)
    ground = Image.new("RGBA", layer.size, (GROUNDS[name],) * 3 + (255,))
    ground.alpha_composite(layer)
    return ground.convert("RGB"), notes


def _choose(layer: Image.Image, opacity: Image.Image) -> str:
    visible = opacity.point([0] * VISIBLE + [255] * (256 - VISIBLE))
    inner = visible
    for dx, dy in STEPS:
        inner = ImageChops.darker(inner, _shifted(visible, dx, dy))
    contour = ImageChops.subtract(visible, inner)
    length = _count(contour)
    red, green, blue, _ = layer.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    shares: dict[str, float] = {}
    for name, level in GROUNDS.items():
        # Near is a pixel all of whose channels are.
        low, high = max(0, level - NEAR), min(255, level + NEAR)
        near = ImageChops.darker(
            darkest.point([255 * (value >= low) for value in range(256)]),
            brightest.point([255 * (value <= high) for value in range(256)]),
        )
        shares[name] = _count(ImageChops.darker(near, contour)) / length if length else 0.0
        if shares[name] <= MOST:
            return name
    return min(shares, key=lambda name: shares[name])


def _shifted(mask: Image.Image, dx: int, dy: int) -> Image.Image:
    """By a pixel; at the border the mask goes on as it ends."""
    moved = ImageChops.offset(mask, dx, dy)
    width, height = mask.size
    if dx:
        edge = 0 if dx > 0 else width - 1
        moved.paste(mask.crop((edge, 0, edge + 1, height)), (edge, 0))
    else:
        edge = 0 if dy > 0 else height - 1
        moved.paste(mask.crop((0, edge, width, edge + 1)), (0, edge))
    return moved


def _count(mask: Image.Image) -> int:
    return mask.histogram()[255]
