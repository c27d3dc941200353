"""TIFF: the page, the meaning of its samples, and all of its strips."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from scanfleet.errors import ImageError
from scanfleet.images import Decoded
from scanfleet.images.decoding import decode, decode_frames
from scanfleet.images.types import FrameChoice
from tests.helpers.odd_files import encoded, noise

RAMP = np.tile(np.arange(64) * 65535 // 63, (64, 1))


def tiff(
    bits: int, raw: bytes, *, white_is_zero: bool = False, sample: int = 1, order: str = "<", **more: int
) -> bytes:
    """64 x 64 grey samples in one strip."""
    tags = {256: 64, 257: 64, 258: bits, 259: 1, 262: int(not white_is_zero), 277: 1, 278: 64, 279: len(raw)}
    tags |= {339: sample, 273: 0} | {int(name[1:]): value for name, value in more.items()}
    tags[273] = 14 + 12 * len(tags)
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, value in sorted(tags.items()):
        out += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return out + bytes(4) + raw


def packed12(samples: np.ndarray[Any, Any]) -> bytes:
    pairs = samples.reshape(-1, 2).astype(int)
    first, second = pairs[:, 0], pairs[:, 1]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def seen(data: bytes) -> Decoded:
    return decode(data, max_pixels=1_000_000)


def row(decoded: Decoded) -> "np.ndarray[Any, Any]":
    return np.asarray(decoded.image)[0, :, 0].astype(int)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        seen(data)
    return caught.value.reason


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["8", "12", "16", "32", "signed 16", "signed 32"])
def test_every_depth_and_byte_order_of_the_same_ramp(kind: str, order: str, white_is_zero: bool) -> None:
    bits = int(kind.split()[-1])
    signed = "signed" in kind
    samples = (RAMP.astype(np.int64) << 16 | RAMP) >> (32 - bits + signed)
    if bits == 12:
        raw = packed12(samples)
    else:
        raw = samples.astype(np.dtype(f"{order}{'i' if signed else 'u'}{bits // 8}")).tobytes()
    if signed and white_is_zero:
        return  # no such layout is written
    decoded = seen(tiff(bits, raw, white_is_zero=white_is_zero, sample=1 + signed, order=order))
    expected = 255 - (RAMP[0] >> 8) if white_is_zero else RAMP[0] >> 8
    assert np.abs(row(decoded) - expected).max() <= 1
    assert decoded.notes == ()


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "signed"), [(16, False), (16, True), (32, False)])
def test_twelve_bits_in_more_are_stretched_and_named(bits: int, signed: bool, order: str, white_is_zero: bool) -> None:
    if signed and white_is_zero:
        return
    raw = (RAMP >> 4).astype(np.dtype(f"{order}{'i' if signed else 'u'}{bits // 8}")).tobytes()
    decoded = seen(tiff(bits, raw, white_is_zero=white_is_zero, sample=1 + signed, order=order))
    assert (row(decoded)[0], row(decoded)[-1]) == ((255, 0) if white_is_zero else (0, 255))
    assert "12 bits" in decoded.notes[0]


@pytest.mark.parametrize(("bits", "kind", "sample"), [(32, "f4", 3), (64, "f8", 3), (16, "f2", 3), (8, "i1", 2)])
def test_samples_without_a_defined_white(bits: int, kind: str, sample: int) -> None:
    raw = (RAMP / 65535 * 100).astype(np.dtype(f"<{kind}")).tobytes()
    assert reason(tiff(bits, raw, sample=sample)) == "unsupported"


def test_negative_samples() -> None:
    assert reason(tiff(16, (RAMP - 32768).astype("<i2").tobytes(), sample=2)) == "unsupported"


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_compressed_greys_of_sixteen_bits(compression: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16))
    assert (row(seen(encoded(image, "TIFF", compression=compression))) == RAMP[0] >> 8).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_fourth_sample_of_no_declared_meaning_is_no_opacity(compression: str) -> None:
    image = Image.new("RGBA", (20, 10), (40, 50, 60, 0))
    data = encoded(image, "TIFF", compression=compression)
    assert seen(data).image.getpixel((5, 5)) == (255, 255, 255)
    at = data.rindex(struct.pack("<HHI", 338, 3, 1))
    undeclared = data[:at] + struct.pack("<H", 65000) + data[at + 2 :]  # another tag in its place
    assert seen(undeclared).image.getpixel((5, 5)) == (40, 50, 60)


def retagged(data: bytes, tag: int, values: tuple[int, ...]) -> bytes:
    """With other values, as many, of a tag of 16-bit numbers."""
    with Image.open(io.BytesIO(data)) as opened:
        assert isinstance(opened, TiffImagePlugin.TiffImageFile)
        before = opened.tag_v2[tag]
    old, new = (struct.pack(f"<{len(values)}H", *numbers) for numbers in (before, values))
    at = data.index(old, data.rindex(struct.pack("<HHI", tag, 3, len(values))) if len(values) < 3 else 0)
    return data[:at] + new + data[at + len(old) :]


def test_grey_that_is_multiplied_by_its_opacity() -> None:
    data = retagged(encoded(Image.new("LA", (20, 20), (100, 128)), "TIFF"), 338, (1,))
    assert abs(seen(data).image.convert("L").getpixel((5, 5)) - (100 + 255 - 128)) <= 2


def test_a_palette_of_eight_bits_where_sixteen_belong() -> None:
    data = encoded(noise(40, 40).quantize(16), "TIFF")
    with Image.open(io.BytesIO(data)) as opened:
        assert isinstance(opened, TiffImagePlugin.TiffImageFile)
        colours = opened.tag_v2[320]
    short = retagged(data, 320, tuple(colour >> 8 for colour in colours))
    assert seen(short).image.tobytes() == seen(data).image.tobytes()


def pages(*sizes_and_marks: tuple[int, int]) -> bytes:
    """Squares of these sides, each marked with this NewSubfileType."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, True) as writer:
        for side, mark in sizes_and_marks:
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info[254] = mark
            Image.new("L", (side, side), side).save(writer, "TIFF", tiffinfo=info)
            writer.newFrame()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("marked", "side"),
    [
        (((64, 0), (8, 1)), 64),
        (((8, 1), (64, 0)), 64),
        (((8, 1), (16, 1), (64, 0), (64, 2)), 64),
        (((64, 4), (32, 2)), 32),  # a mask, a page of many
        (((8, 1), (64, 1)), 64),  # nothing is the picture itself: the largest
        (((8, 1),), 8),
    ],
)
def test_a_reduced_copy_is_not_the_picture(marked: tuple[tuple[int, int], ...], side: int) -> None:
    decoded = seen(pages(*marked))
    assert (decoded.width, decoded.image.getpixel((1, 1))) == (side, (side,) * 3)
    assert bool(decoded.notes) == (marked[0][0] != side)


def test_a_reduced_copy_as_large_as_the_picture_is_a_page() -> None:
    """Any program may set the mark; a copy that is not smaller may show something else."""
    shown = decode_frames(pages((64, 0), (64, 1), (8, 1)), max_pixels=10_000, frames=FrameChoice(8, "mixed"))
    assert [one.width for one in shown] == [64, 64]


def test_the_limit_of_pixels_counts_the_page_that_is_read() -> None:
    with pytest.raises(ImageError) as caught:
        decode(pages((8, 1), (64, 0)), max_pixels=1000)
    assert caught.value.reason == "too_many_pixels"


COMPRESSIONS = ("tiff_lzw", "packbits", "jpeg", "tiff_deflate", "group3", "group4")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_hole_in_compressed_strips(compression: str, share: float) -> None:
    image = noise(320, 240)
    data = encoded(image.convert("1") if "group" in compression else image, "TIFF", compression=compression)
    at = int(len(data) * share)
    assert seen(data).width == 320
    assert reason(data[:at] + bytes(600) + data[at + 600 :]) in ("truncated", "corrupt")


def jpeg_strip(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as opened:
        assert isinstance(opened, TiffImagePlugin.TiffImageFile)
        return opened.tag_v2[273][-1], opened.tag_v2[279][-1]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_strip_that_ends_early(mode: str) -> None:
    """libtiff drops the warnings of libjpeg as well."""
    data = encoded(noise(320, 240).convert(mode), "TIFF", compression="jpeg")
    start, length = jpeg_strip(data)
    half = start + length // 2
    assert seen(data).width == 320
    assert reason(data[:half] + b"\xff\xd9" + bytes(start + length - half - 2) + data[start + length :]) == "truncated"


@pytest.mark.parametrize(("tag", "value"), [(278, 8), (279, 0), (273, 0)])
def test_strips_that_are_not_there(tag: int, value: int) -> None:
    """Pillow and libtiff leave their rows black."""
    raw = np.full((64, 64), 200, np.uint8).tobytes()
    data = bytearray(tiff(8, raw))
    at = data.index(struct.pack("<HHI", tag, 4, 1))
    data[at + 8 : at + 12] = struct.pack("<I", value)
    assert reason(bytes(data)) == "truncated"
