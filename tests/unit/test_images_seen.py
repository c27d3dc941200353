"""What is drawn is what is read: transparency, opacity that nobody set, and zeros in the place of data."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from scanfleet.errors import ImageError
from scanfleet.images import SUFFIXES, Decoded
from scanfleet.images.decoding import decode
from tests.helpers.odd_files import encoded, noise


def seen(data: bytes) -> Decoded:
    return decode(data, max_pixels=1_000_000)


def creative(*colours: str | tuple[int, ...], mode: str = "RGBA") -> Image.Image:
    """Words of these colours on nothing."""
    image = Image.new("RGBA", (200, 40 * len(colours)), (0, 0, 0, 0))
    for n, colour in enumerate(colours):
        ImageDraw.Draw(image).text((10, 10 + 40 * n), "SALE 50 %", fill=colour, font_size=20)
    return image.convert(mode)


def contrast(image: Image.Image, words: Image.Image) -> int:
    """How far the ground is from the darkest and brightest word, in levels."""
    ground = image.convert("L").getpixel((0, 0))
    letters = np.asarray(words.getchannel("A")) > 200
    levels = np.asarray(image.convert("L"))[letters].astype(int)
    return int(np.abs(levels - ground).min())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
@pytest.mark.parametrize(
    ("colours", "ground"),
    [
        (("black",), "white"),
        (("red", "black"), "white"),
        (("white",), "black"),
        (("white", "red"), "black"),
        (((250, 250, 245, 255),), "black"),
        (("white", "black"), "grey"),
    ],
)
def test_words_on_nothing_do_not_vanish(colours: tuple[str, ...], ground: str, kind: str) -> None:
    words = creative(*colours)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    decoded = seen(encoded(words, kind, **options))
    assert contrast(decoded.image, words) > 50
    assert decoded.notes == (() if ground == "white" else (f"transparent pixels are laid over {ground}",))


@pytest.mark.parametrize("how", ["palette", "LA", "key"])
def test_every_way_of_transparency(how: str) -> None:
    if how == "key":
        words = Image.new("RGB", (200, 40), (1, 2, 3))
        ImageDraw.Draw(words).text((10, 10), "SALE 50 %", fill="white", font_size=20)
        data = encoded(words, "PNG", transparency=(1, 2, 3))
    elif how == "LA":
        data = encoded(creative("white", mode="LA"), "PNG")
    else:
        data = encoded(creative("white").quantize(16), "PNG")
    decoded = seen(data)
    darkest, brightest = decoded.image.convert("L").getextrema()
    assert darkest == 0
    assert brightest > 240
    assert "black" in decoded.notes[0]


def test_a_picture_with_few_white_pixels_at_its_edge_stays_on_white() -> None:
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 10, 90, 90), fill=(200, 30, 30, 255))
    ImageDraw.Draw(image).rectangle((48, 10, 52, 20), fill=(255, 255, 255, 255))
    ImageDraw.Draw(image).ellipse((30, 30, 70, 70), fill=(255, 255, 255, 255))  # within, it vanishes nowhere
    decoded = seen(encoded(image, "PNG"))
    assert (decoded.image.getpixel((0, 0)), decoded.notes) == ((255, 255, 255), ())


def test_a_picture_that_fills_its_frame_has_no_contour() -> None:
    image = Image.new("RGBA", (40, 40), (255, 255, 255, 255))
    image.putpixel((20, 20), (0, 0, 0, 254))
    assert seen(encoded(image, "PNG")).notes == ()


def test_nothing_visible_is_said() -> None:
    decoded = seen(encoded(Image.new("RGBA", (9, 9), (5, 5, 5, 0)), "PNG"))
    assert decoded.image.getpixel((1, 1)) == (255, 255, 255)
    assert decoded.notes == ("all pixels are transparent",)


def bmp(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> bytes:
    """32 bits with a mask for opacity, as Windows writes them."""
    raw = pixels.tobytes()
    height, width = pixels.shape[:2]
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(raw), 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(raw), 0, 0, 14 + len(head)) + head + raw


@pytest.mark.parametrize(("opacity", "level"), [(0, 40), (255, 40)])
def test_a_bmp_whose_opacity_nobody_set(opacity: int, level: int) -> None:
    pixels = np.full((8, 8, 4), 40, np.uint8)
    pixels[..., 3] = opacity
    assert seen(bmp(pixels)).image.getpixel((3, 3)) == (level,) * 3


def test_a_bmp_with_opacity() -> None:
    pixels = np.full((8, 8, 4), 40, np.uint8)
    pixels[:, :4, 3] = 0
    pixels[:, 4:, 3] = 255
    image = seen(bmp(pixels)).image
    assert (image.getpixel((0, 0)), image.getpixel((7, 0))) == ((255,) * 3, (40,) * 3)


ENCODINGS: dict[str, Callable[[Image.Image], bytes]] = {
    "lossy WebP": lambda image: encoded(image, "WEBP"),
    "lossless WebP": lambda image: encoded(image, "WEBP", lossless=True),
    "WebP with opacity": lambda image: encoded(creative_over(image), "WEBP"),
    "animated WebP": lambda image: encoded(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
    "AVIF": lambda image: encoded(image, "AVIF"),
    "GIF": lambda image: encoded(image.convert("P"), "GIF"),
    "PNG": lambda image: encoded(image, "PNG"),
}


def creative_over(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_zeros_in_the_place_of_data(kind: str, share: float) -> None:
    data = ENCODINGS[kind](noise(320, 240))
    at = int(len(data) * share)
    if kind == "animated WebP":
        at = min(at, int(len(data) * 0.4))  # of its two frames the first is read
    assert seen(data).width == 320
    for damaged in (data[:at] + bytes(len(data) - at), data[:at] + bytes(400) + data[at + 400 :], data[:at]):
        with pytest.raises(ImageError) as caught:
            seen(damaged)
        assert caught.value.reason in ("truncated", "corrupt", "not_an_image")


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("image", [Image.new("RGB", (300, 200), "white"), Image.linear_gradient("L").convert("RGB")])
def test_smooth_pictures_are_whole(kind: str, image: Image.Image) -> None:
    for size in ((300, 200), (1000, 1000)):
        assert seen(ENCODINGS[kind](image.resize(size))).image.size == size


def test_zeros_behind_the_data_of_a_webp() -> None:
    data = encoded(noise(), "WEBP")
    length = int.from_bytes(data[16:20], "little") + 64
    padded = b"RIFF" + (length + 12).to_bytes(4, "little") + data[8:16] + length.to_bytes(4, "little") + data[20:]
    assert seen(padded + bytes(64)).image.tobytes() == seen(data).image.tobytes()


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "HEIC"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftyp", "JPEG 2000"),
    ],
)
def test_pictures_that_are_not_read_are_named(start: bytes, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        seen(start + bytes(100))
    assert caught.value.reason == "unsupported"
    assert name in caught.value.detail


def test_files_that_are_not_read_are_listed() -> None:
    assert {".heic", ".heif", ".avif", ".jxl"} <= set(SUFFIXES)
