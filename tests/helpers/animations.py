"""Files with several pictures, written here: what each frame of them shows is known."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from tests.helpers.odd_files import encoded

SIDE = 64
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))


def frames(n: int, side: int = SIDE) -> list[Image.Image]:
    """A grey scene in which a square moves; its colour and its place tell the number."""
    made = []
    for number in range(n):
        image = Image.new("RGB", (side, side), (90, 90, 90))
        left = number * 7 % (side - 16)
        ImageDraw.Draw(image).rectangle((left, 8, left + 15, 23), COLOURS[number % len(COLOURS)])
        made.append(image)
    return made


def animated(kind: str, images: Sequence[Image.Image], **options: object) -> bytes:
    options = {"quality": 95, "lossless": kind == "WEBP"} | options if kind in ("WEBP", "AVIF") else options
    return encoded(images[0], kind, save_all=True, append_images=list(images[1:]), **options)


def opened_frames(data: bytes) -> list[Image.Image]:
    """As Pillow composites them."""
    with Image.open(io.BytesIO(data)) as image:
        shown = []
        for number in range(image.n_frames):
            image.seek(number)
            shown.append(image.convert("RGBA"))
    return shown
