"""The overlay family: text laid over a picture, text that belongs to its scene, or none.

What makes the two kinds of text different here, and nothing else does: overlay text is drawn last, crisp and flat,
over noise and light that do not touch it; scene text sits on a surface seen at an angle, and shares the
light, the blur and the noise of its surroundings. Words, faces, sizes and colours come from the same sources.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from scanfleet.models.pocket.scenes import canvas, lettering
from scanfleet.models.pocket.scenes.fonts import phrase, word
from scanfleet.models.pocket.scenes.scene import Scene, dice, mask_box
from scanfleet.models.types import Box

LABELS = ("overlay", "natural", "none")
OVERLAY_STYLES = ("caption", "price", "watermark", "banner", "tiled", "headline", "corner")
SURFACES = ("sign", "package", "shirt", "wall")


@dataclass(frozen=True, kw_only=True)
class Lettered:
    """A picture with letters added, the mask of the ink, and the text."""

    image: Image.Image
    mask: Image.Image
    text: str
    style: str


def smallest(side: int) -> float:
    """Return the smallest font size in pixels: 12 at 128 px (letters of about 9 px), 5.5 % of a large side."""
    return max(12.0, 0.055 * side)


def _mask(rng: random.Random, w: int, h: int, words: int, low: float, high: float) -> tuple[Image.Image, str]:
    """Return letters that fit in w x h; the font size is sampled from low to high pixels and shrunk if needed."""
    least = smallest(min(w, h))
    size = max(least, rng.uniform(low, high))
    for _ in range(6):
        text = phrase(rng, words)
        lines = text.split(" ") if rng.random() < 0.4 else [text]
        mask = lettering.fitted(rng, lines, int(size), int(w * 0.98), int(h * 0.98))
        if mask is not None:
            return mask, text
        size, words = max(least, size * 0.75), 1
    text = rng.choice(("NEW", "SALE", "buy", "Hot"))
    return lettering.text_mask(rng, [text], int(least)), text


def _stamp(rng: random.Random, image: Image.Image, mask: Image.Image, at: tuple[int, int], alpha: float) -> None:
    """Ink the mask on the picture at `at`, in contrast with the background, sometimes with an outline."""
    x, y = at
    behind = lettering.mean_colour(image, (max(x, 0), max(y, 0), max(x, 0) + mask.width, max(y, 0) + mask.height))
    fill = lettering.ink(rng, behind, 70 if alpha > 0.8 else 110)
    if alpha > 0.8 and rng.random() < 0.3:
        edge = lettering.ink(rng, fill, 90)
        wide = Image.new("L", (mask.width + 4, mask.height + 4))
        wide.paste(mask, (2, 2))
        image.paste(edge, (x - 2, y - 2), wide.filter(ImageFilter.MaxFilter(3)))
    image.paste(fill, at, lettering.faded(mask, alpha))


def _caption(rng: random.Random, image: Image.Image, style: str) -> Lettered:
    """Add a caption, headline, corner note or banner: level text, with or without a box behind."""
    w, h = image.size
    s = min(w, h)
    spans = {"caption": (0.08, 0.13), "headline": (0.16, 0.34), "corner": (0.06, 0.1), "banner": (0.09, 0.2)}
    low, high = spans[style]
    mask, text = _mask(rng, w, h, 4 if style == "headline" else 3, low * s, high * s)
    x = rng.randint(0, max(0, w - mask.width))
    y = rng.randint(0, max(0, h - mask.height))
    if style == "caption":
        x, y = (w - mask.width) // 2, (h - mask.height - int(0.04 * h)) if rng.random() < 0.7 else int(0.04 * h)
    if style == "corner":
        x = 2 if rng.random() < 0.5 else w - mask.width - 2
        y = 2 if rng.random() < 0.5 else h - mask.height - 2
    if style == "banner" or rng.random() < 0.25:
        gap = rng.randint(2, max(3, s // 20))
        left, right = (0, w) if style == "banner" else (x - gap, x + mask.width + gap)
        plate = Image.new("RGB", (max(1, right - left), mask.height + 2 * gap), canvas.colour(rng))
        image.paste(plate, (left, y - gap), Image.new("L", plate.size, int(255 * rng.choice((1.0, 1.0, 0.6)))))
    alpha = 1.0 if rng.random() < 0.8 else rng.uniform(0.6, 0.95)
    _stamp(rng, image, mask, (x, y), alpha)
    return Lettered(image=image, mask=lettering.on_page(mask, image.size, (x, y)), text=text, style=style)


def _price(rng: random.Random, image: Image.Image) -> Lettered:
    """Add a round or star-shaped badge with a price or a short word."""
    w, h = image.size
    s = min(w, h)
    text = rng.choice((f"${rng.randint(1, 99)}", f"-{rng.randint(1, 9)}0%", "NEW", "HOT", word(rng)[:5]))
    mask = lettering.text_mask(rng, [text], int(max(smallest(s), rng.uniform(0.1, 0.24) * s)))
    r = max(mask.width, mask.height) / 2 + 0.04 * s
    cx, cy = rng.uniform(r, max(r, w - r)), rng.uniform(min(r, h / 2), max(h - r, h / 2))
    points = []
    spikes, depth = rng.randint(10, 18), rng.choice((1.0, 0.85))
    for k in range(2 * spikes):
        q = r * 1.1 * (depth if k % 2 else 1.0)
        points.append((cx + q * math.cos(math.pi * k / spikes), cy + q * math.sin(math.pi * k / spikes)))
    ImageDraw.Draw(image).polygon(points, fill=canvas.colour(rng))
    at = (int(cx - mask.width / 2), int(cy - mask.height / 2))
    _stamp(rng, image, mask, at, 1.0)
    return Lettered(image=image, mask=lettering.on_page(mask, image.size, at), text=text, style="price")


def _watermark(rng: random.Random, image: Image.Image, style: str) -> Lettered:
    """Add transparent letters: one mark, or the same mark tiled over the whole picture; level or slanted."""
    w, h = image.size
    s = min(w, h)
    tiled = style == "tiled"
    low, high = (0.07, 0.14) if tiled else (0.1, 0.25)
    mask, text = _mask(rng, w, h, 1 if tiled else 2, low * s, high * s)
    degrees = rng.choice((0.0, 0.0, 30.0, 45.0, -30.0))
    if degrees and (tiled or mask.width < 0.8 * s):
        mask = mask.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    page = Image.new("L", image.size)
    if tiled:
        dx, dy = int(mask.width * rng.uniform(1.1, 1.6)) + 3, int(mask.height * rng.uniform(1.1, 2.0)) + 3
        x0, y0 = rng.randint(-dx, 0), rng.randint(-dy, 0)
        for row, y in enumerate(range(y0, h, dy)):
            for x in range(x0 - (row % 2) * dx // 2, w, dx):
                page.paste(mask, (x, y), mask)
    else:
        x, y = rng.randint(0, max(0, w - mask.width)), rng.randint(0, max(0, h - mask.height))
        page.paste(mask, (x, y))
    fill = lettering.ink(rng, lettering.mean_colour(image, (0, 0, w, h)), 100)
    image.paste(fill, (0, 0), lettering.faded(page, rng.uniform(0.35, 0.75)))
    return Lettered(image=image, mask=page, text=text, style=style)


def lay_over(rng: random.Random, image: Image.Image) -> Lettered:
    """Add one overlay text of a random style to a finished picture, in place."""
    style = rng.choice(OVERLAY_STYLES)
    if style == "price":
        return _price(rng, image)
    if style in ("watermark", "tiled"):
        return _watermark(rng, image, style)
    return _caption(rng, image, style)


def _surface(rng: random.Random, style: str, mask: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return paint, shape and letter masks of a sign, package or shirt, all of one size and larger than the letters."""
    pad = rng.uniform(0.25, 0.7) * mask.height
    w, h = int(mask.width + 2 * pad), int(mask.height + 2 * pad * rng.uniform(1.0, 2.2))
    if style == "shirt":
        h, w = int(h * 1.6) + 8, int(w * 1.2) + 4
    skin = canvas.colour(rng)
    paint = Image.new("RGB", (w, h), skin)
    pen = ImageDraw.Draw(paint)
    shape = Image.new("L", (w, h), 255)
    if style == "sign" and rng.random() < 0.7:
        pen.rectangle((1, 1, w - 2, h - 2), outline=canvas.colour(rng), width=max(1, h // 18))
    if style == "package":
        pen.rectangle((0, 0, w, h // 7), fill=canvas.colour(rng))
        pen.rectangle((0, h - h // 8, w, h), fill=canvas.colour(rng))
    if style == "shirt":
        shape = Image.new("L", (w, h))
        ImageDraw.Draw(shape).polygon(
            [(0, h // 5), (w // 3, 0), (w - w // 3, 0), (w, h // 5), (w - w // 12, h), (w // 12, h)], fill=255
        )
    letters = lettering.on_page(mask, (w, h), ((w - mask.width) // 2, (h - mask.height) // 2))
    paint.paste(lettering.ink(rng, skin, 80), (0, 0), letters)
    return paint, shape, letters


def write_in_scene(rng: random.Random, image: Image.Image, words: int = 2) -> Lettered:
    """Put text on a surface of the scene, before light, blur and noise are added to everything."""
    w, h = image.size
    s = min(w, h)
    style = rng.choice(SURFACES)
    degrees = rng.choice((-1, 1)) * rng.uniform(5, 28)
    keystone = rng.uniform(0.1, 0.4)
    mask, text = _mask(rng, int(w * 0.72), int(h * 0.6), words, 0.11 * s, 0.26 * s)
    centre = (w / 2 + rng.uniform(-0.2, 0.2) * w, h / 2 + rng.uniform(-0.2, 0.2) * h)
    if style == "wall":  # painted straight on what is there
        corners = lettering.quad(rng, centre, mask.width, mask.height, degrees, keystone)
        letters = lettering.warp(mask, corners, image.size)
        box = letters.getbbox() or (0, 0, w, h)
        fill = lettering.ink(rng, lettering.mean_colour(image, box), 90)
        image.paste(fill, (0, 0), lettering.faded(letters, rng.uniform(0.75, 1.0)))
        return Lettered(image=image, mask=letters, text=text, style=style)
    paint, shape, letters = _surface(rng, style, mask)
    fit = min(1.0, 0.95 * w / paint.width, 0.95 * h / paint.height)
    corners = lettering.quad(rng, centre, paint.width * fit, paint.height * fit, degrees, keystone)
    if style == "sign" and rng.random() < 0.5:
        (x0, y0), (x1, y1) = corners[3], corners[2]
        foot = ((x0 + x1) / 2, (y0 + y1) / 2)
        ImageDraw.Draw(image).line([foot, (foot[0], h)], fill=canvas.colour(rng), width=max(2, s // 30))
    image.paste(lettering.warp(paint, corners, image.size), (0, 0), lettering.warp(shape, corners, image.size))
    return Lettered(image=image, mask=lettering.warp(letters, corners, image.size), text=text, style=style)


def share_light(rng: random.Random, image: Image.Image) -> Image.Image:
    """Add uneven light, lens blur and sensor noise to everything in the scene."""
    image = canvas.light(rng, image, rng.uniform(0.4, 0.75))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.45, 0.8) * max(1.0, image.width / 224)))
    return canvas.grain(rng, image, rng.uniform(3, 10))


def _hide_part(rng: random.Random, image: Image.Image, mask: Image.Image) -> Image.Image:
    """Cover some of the text with an object, and return the letters that stay visible."""
    box = mask.getbbox()
    if box is None:
        return mask
    r = 0.22 * (box[3] - box[1]) + 0.05 * (box[2] - box[0])
    outline = canvas.blob(rng, rng.choice((box[0], box[2])), rng.uniform(box[1], box[3]), r)
    ImageDraw.Draw(image).polygon(outline, fill=canvas.colour(rng))
    hidden = Image.new("L", mask.size, 255)
    ImageDraw.Draw(hidden).polygon(outline, fill=0)
    return ImageChops.multiply(mask, hidden)


def _marked(rng: random.Random, image: Image.Image, inks: list[Image.Image]) -> Image.Image:
    """Draw crisp marks on top, unless they would cover more than a third of some text."""
    marked = image.copy()
    canvas.marks(rng, marked, rng.randint(1, 4))
    changed = ImageChops.difference(image, marked).convert("L").point([0] + [255] * 255)
    for ink in inks:
        seen = np.asarray(ink, np.uint32)
        if (seen * (np.asarray(changed) > 0)).sum() > seen.sum() / 3:
            return image
    return marked


def _boxes(found: list[tuple[Lettered, str]]) -> tuple[Box, ...]:
    boxes = [mask_box(item.mask, label) for item, label in found]
    return tuple(box for box in boxes if box is not None)


def draw(seed: int, index: int, width: int, height: int, label: str | None = None) -> Scene:
    """Return picture `index` of a seed; the labels take turns unless one is given."""
    rng = dice(seed, "overlay", index)
    label = label or LABELS[index % len(LABELS)]
    image = canvas.background(rng, width, height)
    found: list[tuple[Lettered, str]] = []
    if rng.random() < 0.5:
        canvas.marks(rng, image, rng.randint(1, 3))
    if label == "natural" or (label == "overlay" and rng.random() < 0.25):
        item = write_in_scene(rng, image)
        if rng.random() < 0.25:
            item = Lettered(image=image, mask=_hide_part(rng, image, item.mask), text=item.text, style=item.style)
        found.append((item, "natural"))
    if found or rng.random() < 0.6:
        image = share_light(rng, image)
    if rng.random() < 0.45:
        image = _marked(rng, image, [item.mask for item, _ in found])
    if label == "overlay":
        found.append((lay_over(rng, image), "overlay"))
    return Scene(
        image=image,
        label=label,
        text=" | ".join(item.text for item, _ in found),
        boxes=_boxes(found),
        style="+".join(item.style for item, _ in found) or "plain",
    )
