"""Texts laid over photographs in more ways than the generated family has, and text on surfaces in any face.

Both kinds draw faces, words, sizes and colours from the same sources, so that none of these tells them apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from scanfleet.models.pocket.scenes import canvas, lettering
from scanfleet.models.pocket.scenes.canvas import Colour
from scanfleet.models.pocket.scenes.overlay import Lettered
from tools.pocket.photographs.faces import Faces, sized

SMALLEST = 8.0  # font size in pixels of the finished picture
Size = tuple[int, int]


def _size(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def ink_mask(
    rng: random.Random, faces: Faces, page: Size, span: tuple[float, float], *, scale: float, words: int, lines: int = 1
) -> tuple[Image.Image, str]:
    """Return letters as an L mask no larger than the page; `span` is the font size as a share of its height."""
    width, height = page
    size = max(SMALLEST * scale, _size(rng, *span) * height)
    for _ in range(8):
        path, script = faces.choose(rng)
        text = "\n".join(faces.words(rng, script, path, words) for _ in range(lines))
        mask = _written(rng, sized(path, max(4, int(size))), text)
        if mask is not None and mask.width <= 0.97 * width and mask.height <= 0.9 * height:
            return mask, text
        size, words = max(SMALLEST * scale, size * 0.8), 1
    return lettering.text_mask(rng, ["SALE"], int(SMALLEST * scale)), "SALE"


def _written(rng: random.Random, face: object, text: str) -> Image.Image | None:
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    look = {"font": face, "spacing": rng.randint(0, 6), "align": rng.choice(("left", "center", "right"))}
    x0, y0, x1, y1 = pen.multiline_textbbox((0, 0), text, **look)  # type: ignore[arg-type]
    if not (1 < x1 - x0 < 4000 and 1 < y1 - y0 < 4000):
        return None
    mask = Image.new("L", (int(x1 - x0) + 4, int(y1 - y0) + 4))
    ImageDraw.Draw(mask).multiline_text((2 - x0, 2 - y0), text, fill=255, **look)  # type: ignore[arg-type]
    box = mask.getbbox()
    return mask.crop(box) if box else None


def _place(rng: random.Random, page: Size, mask: Image.Image) -> tuple[int, int]:
    """Return the upper left corner: at an edge, in a corner, in the middle, or anywhere."""
    free = max(0, page[0] - mask.width), max(0, page[1] - mask.height)
    edge = [min(free[axis] // 2, int(page[axis] * rng.uniform(0.01, 0.06))) for axis in (0, 1)]
    across = rng.choice((edge[0], free[0] // 2, free[0] - edge[0], rng.randint(0, free[0])))
    down = rng.choice((edge[1], free[1] // 2, free[1] - edge[1], free[1] - edge[1], rng.randint(0, free[1])))
    return across, down


def _inked(rng: random.Random, image: Image.Image, page: Image.Image, alpha: float, contrast: float) -> None:
    """Ink a page of letters on the picture, at times with an outline, a shadow or two colours."""
    box = page.getbbox()
    if box is None:
        return
    fill = lettering.ink(rng, lettering.mean_colour(image, box), contrast)
    around = rng.random()
    if around < 0.25:
        wide = page.filter(ImageFilter.MaxFilter(rng.choice((3, 3, 5))))
        image.paste(lettering.ink(rng, fill, 90), (0, 0), lettering.faded(wide, alpha))
    elif around < 0.45:
        shade = ImageChops.offset(page, rng.randint(1, 3), rng.randint(1, 3))
        if rng.random() < 0.5:
            shade = shade.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
        image.paste(lettering.ink(rng, fill, 90), (0, 0), lettering.faded(shade, alpha * rng.uniform(0.5, 1)))
    if rng.random() < 0.1:
        other = Image.new("RGB", image.size, fill)
        other.paste(canvas.colour(rng), (0, box[1], image.width, (box[1] + box[3]) // 2))
        image.paste(other, (0, 0), lettering.faded(page, alpha))
    else:
        image.paste(fill, (0, 0), lettering.faded(page, alpha))


def _plain(rng: random.Random, image: Image.Image, faces: Faces, scale: float) -> tuple[Image.Image, str]:
    """Caption, headline, note, subtitle, block of lines, or a picture joke's two lines."""
    kind = rng.choice(("caption", "note", "headline", "block", "two"))
    spans = {
        "caption": (0.045, 0.12),
        "note": (0.025, 0.06),
        "headline": (0.12, 0.4),
        "block": (0.035, 0.08),
        "two": (0.07, 0.14),
    }
    page = Image.new("L", image.size)
    texts = []
    for turn in range(2 if kind == "two" else 1):
        mask, text = ink_mask(
            rng, faces, image.size, spans[kind], scale=scale, words=4, lines=rng.randint(2, 5) if kind == "block" else 1
        )
        at = _place(rng, image.size, mask)
        if kind == "two":
            at = (image.width - mask.width) // 2, (image.height - mask.height - 4) * turn + 2
        page.paste(mask, at, mask)
        texts.append(text)
    _inked(rng, image, page, 1.0 if rng.random() < 0.7 else rng.uniform(0.45, 0.95), 60)
    return page, " ".join(texts)


def _plated(rng: random.Random, image: Image.Image, faces: Faces, scale: float) -> tuple[Image.Image, str]:
    """Letters on a plate: box, band, button, badge, star, ribbon or bubble, solid or transparent, level or turned."""
    mask, text = ink_mask(rng, faces, image.size, (0.035, 0.2), scale=scale, words=3, lines=rng.choice((1, 1, 1, 2)))
    pad = max(2, int(mask.height * rng.uniform(0.15, 0.7)))
    w, h = mask.width + 2 * pad, mask.height + 2 * pad
    kind = rng.choice(("box", "band", "button", "badge", "star"))
    if kind in ("badge", "star"):
        w = h = int(1.15 * max(w, h))
    shape, pen_box = Image.new("L", (w, h)), (0, 0, w - 1, h - 1)
    pen = ImageDraw.Draw(shape)
    if kind == "badge":
        pen.ellipse(pen_box, fill=255)
    elif kind == "star":
        pen.polygon(_star(rng, w), fill=255)
    elif kind == "button":
        pen.rounded_rectangle(pen_box, h * rng.uniform(0.15, 0.5), fill=255)
    else:
        pen.rectangle(pen_box, fill=255)
    letters = lettering.on_page(mask, (w, h), ((w - mask.width) // 2, (h - mask.height) // 2))
    degrees = rng.choice((0, 0, 0, 0, rng.uniform(-25, 25), 45, -45))
    if degrees:
        shape, letters = (m.rotate(degrees, Image.Resampling.BICUBIC, expand=True) for m in (shape, letters))
    at = _place(rng, image.size, shape)
    skin, solid = canvas.colour(rng), 1.0 if rng.random() < 0.65 else rng.uniform(0.3, 0.9)
    if kind == "band" and not degrees:
        ImageDraw.Draw(image, "RGBA").rectangle(
            (0, at[1], image.width, at[1] + shape.height), fill=(*skin, int(255 * solid))
        )
    else:
        image.paste(skin, at, lettering.faded(shape, solid))
    page = lettering.on_page(letters, image.size, at)
    _inked(rng, image, page, 1.0 if rng.random() < 0.8 else rng.uniform(0.6, 0.95), 80)
    return page, text


def _star(rng: random.Random, side: int) -> list[tuple[float, float]]:
    spikes, deep, r = rng.randint(8, 20), rng.uniform(0.75, 0.92), side / 2
    return [
        (r + r * q * math.cos(math.pi * k / spikes), r + r * q * math.sin(math.pi * k / spikes))
        for k in range(2 * spikes)
        for q in (deep if k % 2 else 1.0,)
    ]


def _mark(rng: random.Random, image: Image.Image, faces: Faces, scale: float) -> tuple[Image.Image, str]:
    """A transparent mark: one, or tiled; level or slanted; filled or an outline."""
    tiled = rng.random() < 0.45
    mask, text = ink_mask(
        rng, faces, image.size, (0.04, 0.12) if tiled else (0.06, 0.35), scale=scale, words=1 if tiled else 2
    )
    if rng.random() < 0.15:
        mask = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask)
    degrees = rng.choice((0.0, 0.0, rng.uniform(-60, 60), 30.0, 45.0, -30.0, 90.0))
    turned = mask.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    mask = turned if turned.width <= image.width and turned.height <= image.height else mask
    page = Image.new("L", image.size)
    if tiled:
        dx, dy = int(mask.width * rng.uniform(1.1, 2.2)) + 3, int(mask.height * rng.uniform(1.1, 3.0)) + 3
        for row, y in enumerate(range(rng.randint(-dy, 0), image.height, dy)):
            for x in range(-dx + (row % 2) * dx // 2, image.width, dx):
                page.paste(mask, (x, y), mask)
    else:
        page.paste(mask, _place(rng, image.size, mask))
    _inked(rng, image, page, rng.uniform(0.22, 0.8), 110)
    return page, text


def _stamp(rng: random.Random, image: Image.Image, faces: Faces, scale: float) -> tuple[Image.Image, str]:
    """A camera's date, an address or a handle in small level letters, or a logo: a drawn sign with a name."""
    page, pen = Image.new("L", image.size), ImageDraw.Draw(image)
    mask, text = ink_mask(rng, faces, image.size, (0.03, 0.1), scale=scale, words=2)
    path, script = faces.choose(rng)
    if script == "latin" and rng.random() < 0.5:
        day = f"{rng.randint(1, 28):02}{rng.choice('.-/')}{rng.randint(1, 12):02} {rng.randint(1990, 2030)}"
        text = rng.choice(
            (
                day,
                f"www.{text.split()[0].lower()}.com",
                f"© {day[-4:]} {text}",
                f"{rng.randint(0, 23)}:{rng.randint(10, 59)}",
            )
        )
        mask = _written(rng, sized(path, max(int(SMALLEST * scale), int(0.06 * image.height))), text) or mask
    at = _place(rng, image.size, mask)
    if rng.random() < 0.35:
        r = mask.height
        corner = (max(0, at[0] - 2 * r), at[1])
        pen.ellipse((*corner, corner[0] + r, corner[1] + r), fill=canvas.colour(rng))
        pen.polygon(
            [(corner[0] + r / 2, corner[1]), (corner[0], corner[1] + r), (corner[0] + r, corner[1] + r)],
            fill=canvas.colour(rng),
        )
    page.paste(mask, at)
    _inked(rng, image, page, 1.0 if rng.random() < 0.7 else rng.uniform(0.4, 0.9), 80)
    return page, text


Way = Callable[[random.Random, Image.Image, Faces, float], tuple[Image.Image, str]]
WAYS: tuple[Way, ...] = (_plain, _plain, _plated, _plated, _mark, _mark, _stamp)


def lay_over(rng: random.Random, image: Image.Image, faces: Faces, scale: float = 1.0) -> Lettered:
    """Add an overlay of any way in any face, in place. `scale`: how much the picture will be shrunk afterwards."""
    way = rng.choice(WAYS)
    page, text = way(rng, image, faces, scale)
    return Lettered(image=image, mask=page, text=text, style=way.__name__.strip("_"))


def write_in_scene(rng: random.Random, image: Image.Image, faces: Faces, scale: float = 1.0) -> Lettered:
    """Put letters of any face on a surface of the photograph, in place: on a board, or painted on what is there.

    Light, blur and noise follow for everything, as in the generated family.
    """
    w, h = image.size
    mask, text = ink_mask(
        rng, faces, (int(0.75 * w), int(0.6 * h)), (0.1, 0.4), scale=scale, words=2, lines=rng.choice((1, 1, 2))
    )
    centre = w * rng.uniform(0.3, 0.7), h * rng.uniform(0.3, 0.7)
    tilt, keystone = rng.choice((-1, 1)) * rng.uniform(5, 30), rng.uniform(0.1, 0.45)
    board = rng.random() < 0.6
    pad = int(mask.height * rng.uniform(0.2, 0.8)) if board else 2
    size = mask.width + 2 * pad, mask.height + 2 * pad
    fit = min(1.0, 0.95 * w / size[0], 0.95 * h / size[1])
    corners = lettering.quad(rng, centre, size[0] * fit, size[1] * fit, tilt, keystone)
    letters = lettering.warp(lettering.on_page(mask, size, (pad, pad)), corners, image.size)
    behind: Colour = lettering.mean_colour(image, letters.getbbox() or (0, 0, w, h))
    if board:
        behind = canvas.colour(rng)
        shape = lettering.warp(Image.new("L", size, 255), corners, image.size)
        image.paste(behind, (0, 0), lettering.faded(shape, rng.choice((1.0, 1.0, 0.7))))
    image.paste(lettering.ink(rng, behind, 80), (0, 0), lettering.faded(letters, rng.uniform(0.7, 1.0)))
    return Lettered(image=image, mask=letters, text=text, style="board" if board else "painted")
