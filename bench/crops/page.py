"""A page of pictures: the image, the map over it, the crop, and both scores."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from scanfleet.models.relevance.regions import Map, Region
from scanfleet.models.types import Box

SIDE = 280  # pixels of a panel
GAP = 6
SEEN, TRUE = (255, 200, 0), (0, 160, 255)  # outlines of the region and of the target
VEIL = 0.55  # of the map over the image

STYLE = """
body { margin: 0 auto; max-width: 72rem; padding: 2rem; font: 15px/1.45 system-ui, sans-serif; color: #1c1d1f; }
figure { margin: 0 0 1.5rem; } figcaption { color: #62666c; } img { max-width: 100%; } b { color: #1c1d1f; }
"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of the page; `values`: the map; margins in logits; region None: no crop pass."""

    name: str
    image: Image.Image
    values: Map | None
    region: Region | None
    box: Box | None
    target: bool
    first: float
    fused: float


def strip(shown: Shown) -> Image.Image:
    """Draw the image, the map over it, and the crop side by side; the target is outlined blue, the region yellow."""
    panels = [_outlined(shown.image, shown), _outlined(_veiled(shown), shown), _crop(shown)]
    row = Image.new("RGB", (3 * SIDE + 2 * GAP, SIDE), "white")
    for at, panel in enumerate(panels):
        small = panel.copy()
        small.thumbnail((SIDE, SIDE))
        row.paste(small, (at * (SIDE + GAP) + (SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return row


def _outlined(image: Image.Image, shown: Shown) -> Image.Image:
    image = image.copy()
    pen, width = ImageDraw.Draw(image), max(2, max(image.size) // 140)
    if shown.box is not None:
        grown = 2 * width
        box = shown.box
        pen.rectangle((box.x0 - grown, box.y0 - grown, box.x1 + grown, box.y1 + grown), outline=TRUE, width=width)
    if shown.region is not None:
        pen.rectangle(shown.region.corners, outline=SEEN, width=width)
    return image


def _veiled(shown: Shown) -> Image.Image:
    """Draw the map in colours over the greyed image."""
    if shown.values is None:
        return shown.image
    top = float(np.percentile(shown.values, 99.5)) or 1.0
    heat = mpl.colormaps["inferno"](np.clip(shown.values / top, 0, 1))[..., :3]
    veil = Image.fromarray((255 * heat).astype(np.uint8)).resize(shown.image.size, Image.Resampling.NEAREST)
    return Image.blend(shown.image.convert("L").convert("RGB"), veil, VEIL)


def _crop(shown: Shown) -> Image.Image:
    if shown.region is None:
        return Image.new("RGB", (SIDE, SIDE), (235, 235, 235))
    part = shown.image.crop(shown.region.corners)
    scale = SIDE / max(part.size)
    return part.resize(
        (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.BICUBIC
    )


def write_page(path: Path, examples: Sequence[Shown], *, heading: str, text: str) -> None:
    figures = "\n".join(_figure(shown) for shown in examples)
    body = f"<h1>{html.escape(heading)}</h1><p>{html.escape(text)}</p>\n{figures}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(heading)}</title>'
        f"<style>{STYLE}</style><body>{body}</body></html>\n",
        encoding="utf-8",
    )


def _figure(shown: Shown) -> str:
    data = io.BytesIO()
    strip(shown).save(data, "JPEG", quality=85)
    picture = base64.b64encode(data.getvalue()).decode()
    return (
        f'<figure><img alt="image, map, crop" src="data:image/jpeg;base64,{picture}">'
        f"<figcaption><b>{html.escape(caption(shown))}</b> {html.escape(shown.name)}, "
        f"{shown.image.width} x {shown.image.height} px</figcaption></figure>"
    )


def caption(shown: Shown) -> str:
    truth = "a target" if shown.target else "no target"
    return f"{truth}: margin {shown.first:+.2f} in the first pass, {shown.fused:+.2f} after both"


def write_strips(path: Path, examples: Sequence[Shown]) -> None:
    """Write the first few examples as one picture, for the docs."""
    rows = [strip(shown) for shown in examples]
    line = 20
    sheet = Image.new("RGB", (rows[0].width, len(rows) * (SIDE + line + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (row, shown) in enumerate(zip(rows, examples, strict=True)):
        top = at * (SIDE + line + GAP)
        sheet.paste(row, (0, top))
        pen.text((4, top + SIDE + 4), caption(shown), fill=(30, 30, 30))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(path, optimize=True)
