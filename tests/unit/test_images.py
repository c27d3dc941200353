"""Decoding: every kind of file people really have is either upright RGB or an ImageError with a reason."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from scanfleet.errors import ImageError
from scanfleet.images import Enough
from scanfleet.images.decoding import decode
from tests.helpers.odd_files import bomb_png, encoded

LIMIT = 1_000_000


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=LIMIT)
    assert caught.value.stage == "decode"
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_common_formats(kind: str) -> None:
    decoded = decode(encoded(Image.new("RGB", (40, 30), "red"), kind), max_pixels=LIMIT)
    assert (decoded.image.mode, decoded.width, decoded.height, decoded.format) == ("RGB", 40, 30, kind)
    red, green, blue = decoded.image.getpixel((20, 15))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_the_first_picture_of_a_multi_picture_jpeg() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "blue")]
    decoded = decode(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), max_pixels=LIMIT)
    assert decoded.format == "MPO"
    assert decoded.image.getpixel((4, 4))[1] > 240


def test_cmyk_keeps_its_colour() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = decode(data, max_pixels=LIMIT).image.getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode(encoded(Image.fromarray(ramp), kind), max_pixels=LIMIT)
    grey = np.asarray(decoded.image)[..., 0].ravel().astype(int)
    assert np.abs(grey - np.arange(256)).max() <= 1


def test_transparency_is_laid_over_white() -> None:
    clear = decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"), max_pixels=LIMIT)
    assert clear.image.getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    data = encoded(palette, "PNG", transparency=0)
    assert decode(data, max_pixels=LIMIT).image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = decode(data, max_pixels=LIMIT).image.getpixel((4, 4))
    assert green > 240
    assert max(red, blue) < 15


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 10, 20))  # the left edge
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    decoded = decode(encoded(image, "JPEG", exif=exif.tobytes()), max_pixels=LIMIT)
    assert (decoded.width, decoded.height) == (20, 40)
    assert decoded.image.getpixel((10, 2))[0] < 30  # left became top


def oriented_jpeg(exif: bytes) -> bytes:
    return encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as in a decoder process
@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (b"Exif\0\0nothing that could be read", (40, 20)),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02six\0", (40, 20)),  # the orientation in letters
        # Orientation 6, and a numeric field without a number: what was read counts.
        (
            b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x1a\0\x02\0\0\0\x04abc\0\0\0\0\0",
            (20, 40),
        ),
    ],
)
def test_damaged_exif_data_do_not_make_the_pixels_worse(exif: bytes, size: tuple[int, int]) -> None:
    decoded = decode(oriented_jpeg(exif), max_pixels=LIMIT)
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_what_pillow_takes_it_for(orientation: int, kind: str) -> None:
    image = Image.effect_noise((12, 7), 90).resize((24, 14)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as opened:
        assert (
            decode(data, max_pixels=LIMIT).image.tobytes() == ImageOps.exif_transpose(opened).convert("RGB").tobytes()
        )


def test_only_the_plugins_of_accepted_formats_are_loaded() -> None:
    lines = """
import sys
from scanfleet.errors import ImageError
from scanfleet.images.decoding import decode
try:
    decode(b"no image", max_pixels=9)
except ImageError:
    print(*(name for name in sys.modules if name.endswith("ImagePlugin")))
"""
    loaded = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split()
    wanted = {"Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"}
    assert {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in loaded} - {"Ppm"} == wanted


def test_empty() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize("data", [b"these are words, not pixels\n" * 40, b"<svg xmlns='x'/>", b"\x00" * 512])
def test_not_an_image(data: bytes) -> None:
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert reason(data[: len(data) // 2]) in ("truncated", "not_an_image")


def test_a_bomb_is_refused_before_memory_is_spent() -> None:
    assert reason(bomb_png(30_000)) == "too_many_pixels"


def test_formats_with_dangerous_decoders_are_not_tried() -> None:
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == "not_an_image"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png(mode: str) -> None:
    assert decode(encoded(Image.new(mode, (5, 7)), "PNG"), max_pixels=LIMIT).image.mode == "RGB"


def test_decoding_from_a_path_with_spaces_and_unicode(tmp_path: Path) -> None:
    path = tmp_path / "ein größeres bild (1).png"
    Image.new("RGB", (3, 3)).save(path)
    assert decode(path.read_bytes(), max_pixels=LIMIT).width == 3


@pytest.mark.parametrize("name", ["comment", "XML:com.adobe.xmp", "Raw profile type exif"])
@pytest.mark.parametrize("how", ["text", "packed", "international"])
def test_text_in_a_png_says_nothing_about_its_pixels(name: str, how: str) -> None:
    text = PngInfo()
    if how == "international":
        text.add_itxt(name, "a" * 3_000_000, zip=True)
    else:
        text.add_text(name, "a" * 3_000_000, zip=how == "packed")
    assert decode(encoded(Image.new("RGB", (4, 4)), "PNG", pnginfo=text), max_pixels=100).width == 4


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Something without detail near the pixel: a colour of its own in each corner."""
    small = Image.fromarray(np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 220], [230, 230, 40]]], dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR).convert(mode)


@pytest.mark.parametrize(
    ("size", "enough", "given"),
    [
        ((800, 600), Enough(800 * 600, 1), (800, 600)),
        ((800, 600), Enough(400 * 300, 1), (400, 300)),
        ((800, 600), Enough(400 * 300 + 1, 1), (800, 600)),
        ((800, 600), Enough(1, 300), (400, 300)),
        ((800, 600), Enough(1, 301), (800, 600)),
        ((801, 603), Enough(10, 10), (101, 76)),
        ((1001, 15), Enough(10, 4), (251, 4)),
        ((1001, 4), Enough(10, 2), (501, 2)),
        ((9, 9), Enough(10_000, 1), (9, 9)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_size_that_is_enough(
    size: tuple[int, int], enough: Enough, given: tuple[int, int]
) -> None:
    decoded = decode(encoded(scene(*size), "JPEG"), max_pixels=LIMIT, enough=enough)
    assert decoded.image.size == given
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize("size", [(w, h) for w in range(1, 24) for h in (1, 7, 8, 9, 17, 1000)])
def test_it_is_never_less_than_enough(size: tuple[int, int]) -> None:
    data = encoded(scene(*size), "JPEG")
    for enough in (Enough(1, 1), Enough(6, 2), Enough(40, 1), Enough(1, 5)):
        image = decode(data, max_pixels=LIMIT, enough=enough).image
        sufficient = image.width * image.height >= enough.pixels and min(image.size) >= enough.short_side
        assert image.size == size or sufficient


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("progressive", "RGB"), ("MPO", "RGB")]
)
def test_a_smaller_jpeg_shows_the_same_upright_picture(kind: str, mode: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    more: dict[str, object] = {"progressive": kind == "progressive"}
    if kind == "MPO":
        more = {"save_all": True, "append_images": [scene(60, 40)]}
    data = encoded(scene(402, 300, mode), "MPO" if kind == "MPO" else "JPEG", exif=exif.tobytes(), quality=95, **more)
    whole = decode(data, max_pixels=LIMIT)
    part = decode(data, max_pixels=LIMIT, enough=Enough(100 * 75, 1))
    upright = (300, 402) if orientation in (5, 6, 7, 8) else (402, 300)
    assert (part.width, part.height) == (whole.width, whole.height) == whole.image.size == upright
    assert part.image.mode == "RGB"
    assert part.format == whole.format == ("MPO" if kind == "MPO" else "JPEG")
    assert sorted(part.image.size) == [75, 101]
    difference = np.asarray(part.image, dtype=int) - np.asarray(whole.image.resize(part.image.size), dtype=int)
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    assert decode(encoded(scene(80, 60), kind), max_pixels=LIMIT, enough=Enough(10, 1)).image.size == (80, 60)


def test_the_limit_of_pixels_counts_the_whole_picture() -> None:
    with pytest.raises(ImageError) as caught:
        decode(encoded(scene(800, 600), "JPEG"), max_pixels=800 * 600 - 1, enough=Enough(10, 1))
    assert caught.value.reason == "too_many_pixels"


def test_a_jpeg_cut_off_is_damaged_at_any_size() -> None:
    data = encoded(scene(800, 600), "JPEG")
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], max_pixels=LIMIT, enough=Enough(10, 1))
    assert caught.value.reason == "truncated"
