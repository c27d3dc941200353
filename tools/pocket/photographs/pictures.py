"""Crops of photographs with text laid over them, text on surfaces of them, or none; for training and development.

Whoever laid the text over often worked on a larger picture, which was shrunk afterwards, and saved it as a JPEG.
"""

from __future__ import annotations

import io
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from scanfleet.models.pocket.scenes import canvas, overlay
from scanfleet.models.pocket.scenes.overlay import LABELS, Lettered
from scanfleet.models.pocket.scenes.scene import Scene, dice, mask_box
from tools.pocket.photographs import lettering
from tools.pocket.photographs.faces import Faces

OWN_FAMILY = 0.35  # share of texts in the generated family's lettering
DRAWN = 0.2  # share of wallpapers that are no photographs, in training
KINDS = ("overlay", "natural", "overlay", "none", "overlay", "none", "natural", "none")


@lru_cache(maxsize=4)
def of_split(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the photographs of "train" or "development", or the wallpapers that are none: "drawn"."""
    found = tuple(sorted((folder / split).glob("*.jpg")))
    if not found:
        raise SystemExit(f"{folder / split}: no photographs: run python -m tools.pocket.photographs.packages --out DIR")
    return found


@lru_cache(maxsize=1)
def faces_of(folder: Path) -> Faces:
    return Faces(folder / "fonts")


@lru_cache(maxsize=200)
def _opened(path: Path) -> Image.Image:
    with Image.open(path) as photograph:
        return photograph.convert("RGB")


def crop(rng: random.Random, path: Path, width: int, height: int) -> Image.Image:
    """Return a crop of the photograph, a third of it to all of it, in the picture's proportions; mirrored at times."""
    whole = _opened(path)
    unit = min(whole.width / width, whole.height / height) * rng.uniform(0.33, 1.0)
    w, h = int(unit * width), int(unit * height)
    x, y = rng.randint(0, whole.width - w), rng.randint(0, whole.height - h)
    image = whole.resize((width, height), Image.Resampling.LANCZOS, (x, y, x + w, y + h))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _developed(rng: random.Random, image: Image.Image) -> Image.Image:
    """As another camera would give it: exposure, colour, contrast, blur, noise, grey."""
    if rng.random() < 0.5:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(rng.uniform(0.6, 1.5))
    if rng.random() < 0.3:
        gains = np.array([rng.uniform(0.7, 1.3) for _ in range(3)], np.float32)
        image = Image.fromarray(np.clip(np.asarray(image, np.float32) * gains, 0, 255).astype(np.uint8))
    if rng.random() < 0.06:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.0)))
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.UnsharpMask(2, rng.randint(60, 200), 2))
    return canvas.grain(rng, image, rng.uniform(2, 14)) if rng.random() < 0.25 else image


def _background(rng: random.Random, photographs: tuple[Path, ...], w: int, h: int) -> Image.Image:
    image = _developed(rng, crop(rng, rng.choice(photographs), w, h))
    if rng.random() < 0.12:  # an object or a corner of another one: more scenes than there are photographs
        other = _developed(rng, crop(rng, rng.choice(photographs), w, h))
        part = canvas.smooth(rng, w, h, rng.choice((2, 3, 4))).point([0] * 118 + [255] * 138)
        image.paste(other, (0, 0), part.filter(ImageFilter.GaussianBlur(1)))
    return image


def _with_text(rng: random.Random, image: Image.Image, label: str, faces: Faces, scale: float) -> Lettered:
    own = scale == 1 and rng.random() < OWN_FAMILY
    if label == "natural":
        return overlay.write_in_scene(rng, image) if own else lettering.write_in_scene(rng, image, faces, scale)
    return overlay.lay_over(rng, image) if own else lettering.lay_over(rng, image, faces, scale)


def saved(rng: random.Random, image: Image.Image) -> Image.Image:
    """Return the picture after it was saved: two in three as a JPEG of quality 50 to 95."""
    if rng.random() < 1 / 3:
        return image
    out = io.BytesIO()
    image.save(out, "JPEG", quality=rng.randint(50, 95), subsampling=rng.choice((0, 2)))
    return Image.open(out).convert("RGB")


def draw(folder: Path, split: str, seed: int, index: int, width: int, height: int) -> Scene:
    """Return picture `index` of a seed. Of eight, three are overlays, two hold scene text, three none."""
    rng, label = dice(seed, "photographs", index), KINDS[index % len(KINDS)]
    scale = 1.0 if rng.random() < 0.6 else rng.uniform(1.3, 2.2)
    w, h = round(width * scale), round(height * scale)
    drawn = split == "train" and rng.random() < DRAWN
    image = _background(rng, of_split(folder, "drawn" if drawn else split), w, h)
    faces, found = faces_of(folder), []
    if rng.random() < 0.15:
        canvas.marks(rng, image, rng.randint(1, 3))
    if label == "natural" or (label == "overlay" and rng.random() < 0.2):
        found.append((_with_text(rng, image, "natural", faces, scale), "natural"))
    if found or rng.random() < 0.3:
        image = overlay.share_light(rng, image)
    if rng.random() < 0.15:
        canvas.marks(rng, image, rng.randint(1, 3)) if not found else None
    if label == "overlay":
        found.append((_with_text(rng, image, "overlay", faces, scale), "overlay"))
    image = saved(rng, image.resize((width, height), Image.Resampling.LANCZOS) if scale > 1 else image)
    small = [(item.mask.resize((width, height), Image.Resampling.BOX), name) for item, name in found]
    boxes = tuple(box for mask, name in small if (box := mask_box(mask, name)) is not None)
    style = "+".join(item.style for item, _ in found) or "plain"
    assert label in LABELS
    return Scene(image=image, label=label, text=" | ".join(i.text for i, _ in found), boxes=boxes, style=style)
