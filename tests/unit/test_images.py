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
from scanfleet.images import decode
from tests.odd_files import bomb_png, encoded

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
from scanfleet.images import decode
try:
    decode(b"no image", max_pixels=9)
except ImageError:
    print(*(name for name in sys.modules if name.endswith("ImagePlugin")))
"""
    loaded = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split()
    wanted = {"Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"}
    assert {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in loaded} - {"Ppm"} == wanted


def test_empty() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize(
    "data", [b"these are words, not pixels\n" * 40, b"%PDF-1.7\n", b"<svg xmlns='x'/>", b"\x00" * 512]
)
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


def test_a_png_with_a_bomb_in_its_text_is_no_damaged_one() -> None:
    buffer = io.BytesIO()
    text = PngInfo()
    text.add_text("comment", "a" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=text)
    with pytest.raises(ImageError) as caught:
        decode(buffer.getvalue(), max_pixels=100)
    assert caught.value.reason == "too_much_text"
