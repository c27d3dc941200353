"""Samples of more than 8 bits, brought to 8 as the file means them.

X-ray and DICOM exports write 10, 12 or 14 bits into samples of 16: what the file says is nearly black. Unless told
otherwise such a picture is stretched to the bits that its brightest sample needs, and a note says so.
"""

from __future__ import annotations

import io
import sys
from typing import cast

from PIL import Image, ImageChops

from scanfleet.images.types import failure

STEPS = (8, 10, 12, 14, 16, 24, 32)  # bits that devices use
OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
TOP_BYTE = 3 if sys.byteorder == "little" else 0  # of a 32-bit sample in memory
Notes = tuple[str, ...]


def grey(
    image: Image.Image, *, bits: int, signed: bool = False, inverted: bool = False, stretch: bool = True
) -> tuple[Image.Image, Notes]:
    """An 8-bit grey picture of one of 12, 16 or 32 bits. Raises ImageError."""
    if image.mode != "I":
        image = image.convert("I")
    low, high = _range(image)
    if signed and low < 0:
        raise failure("unsupported", f"signed samples from {low} to {high} have no defined black and white")
    whole = bits - 1 if signed else bits
    if low < 0:  # 32 bits without a sign, in Pillow's integers that have one
        used, grey_image = whole, Image.frombytes("RGBA", image.size, image.tobytes()).getchannel(TOP_BYTE)
    else:
        used = min(whole, _used(high)) if stretch and high else whole
        # Pillow's own conversion clips at 255, which turns a 16-bit X-ray white.
        scale = 2.0 ** (8 - used)
        grey_image = image.point(lambda value: value * scale).convert("L")
    if inverted:
        grey_image = ImageChops.invert(grey_image)
    return grey_image, _note(used, whole)


def colour(image: Image.Image, data: bytes, page: int, *, stretch: bool = True) -> tuple[Image.Image, Notes]:
    """An 8-bit picture of one of 16 bits a channel, of which Pillow has kept the upper bytes."""
    brightest = max(_range(channel)[1] for channel in image.split()[:3])
    used = _used(brightest << 8)
    if not stretch or used >= 16:
        return image, ()
    low = low_bytes(data, page)
    if not brightest:
        used = 8
        if not any(_range(channel)[1] for channel in low.split()[:3]):
            return image, ()
    channels = [
        ImageChops.add(
            high.point([min(255, value << (16 - used)) for value in range(256)]),
            rest.point([value >> (used - 8) for value in range(256)]),
        )
        for high, rest in zip(image.split()[:3], low.split()[:3], strict=True)
    ]
    return Image.merge(image.mode, channels + list(image.split()[3:])), _note(used, 16)


def low_bytes(data: bytes, page: int) -> Image.Image:
    """The lower bytes of 16-bit samples."""
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as opened:
        opened.seek(page)
        raw_mode = _raw_mode(opened.tile[0].args)
        grey_and_opacity = raw_mode == "LA;16B"
        other = "RGBA" if grey_and_opacity else raw_mode[:-4] + OTHER_BYTE[raw_mode[-4:]]
        opened.tile = [tile._replace(args=_with_raw_mode(tile.args, other)) for tile in opened.tile]
        opened.load()
        if grey_and_opacity:  # read as four channels: upper and lower byte of each of the two
            _, grey_low, _, opacity_low = opened.split()
            return Image.merge("RGBA", (grey_low, grey_low, grey_low, opacity_low))
        return opened.copy()


def _raw_mode(args: tuple[object, ...] | str | None) -> str:
    """How a decoder unpacks samples, by its arguments."""
    return str(args if isinstance(args, str) else (args or ("",))[0])


def _with_raw_mode(args: tuple[object, ...] | str | None, raw_mode: str) -> tuple[object, ...] | str:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def key_mask(image: Image.Image, key: int) -> Image.Image:
    """Opacity: none where a 16-bit grey picture has just this value."""
    table = [255] * 65536
    table[key] = 0
    return image.convert("I").point(table, "L")


def colour_key_mask(image: Image.Image, data: bytes, key: tuple[int, int, int]) -> Image.Image:
    """Opacity: none where a 16-bit picture, given by its upper bytes, has just this colour."""
    low = low_bytes(data, 0)
    mask = Image.new("L", image.size, 0)
    for high, rest, value in zip(image.split(), low.split(), key, strict=True):
        for channel, byte in ((high, value >> 8), (rest, value & 255)):
            mask = ImageChops.lighter(mask, channel.point([255 * (level != byte) for level in range(256)]))
    return mask


def _range(image: Image.Image) -> tuple[int, int]:
    return cast("tuple[int, int]", image.getextrema())


def _used(highest: int) -> int:
    return next(step for step in STEPS if highest < 1 << step)


def _note(used: int, whole: int) -> Notes:
    return (f"stretched from {used} bits of {whole}",) if used < whole else ()
