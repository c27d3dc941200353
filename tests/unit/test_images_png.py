"""PNG: whole or a failure, and the picture that a browser shows."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from scanfleet.errors import ImageError
from scanfleet.images import Decoded
from scanfleet.images.decoding import decode, decode_frames
from scanfleet.images.types import FrameChoice
from tests.helpers.odd_files import encoded

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RAMP = np.tile(np.arange(64) * 65535 // 63, (64, 1)).astype(np.uint16)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, bits: int, colour: int, rows: Sequence[bytes], *chunks: bytes, interlaced: bool = False
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return SIGNATURE + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def seen(data: bytes, **how: bool) -> Decoded:
    return decode(data, max_pixels=1_000_000, **how)


def first_row(decoded: Decoded) -> list[int]:
    return [int(value) for value in np.asarray(decoded.image)[0, :, 0]]


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        seen(data)
    return caught.value.reason


def test_pixels_under_a_wrong_checksum() -> None:
    data = bytearray(encoded(Image.effect_noise((64, 64), 90), "PNG"))
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    data[at + 4 + length] ^= 1
    assert reason(bytes(data)) == "corrupt"


def test_a_wrong_checksum_of_a_comment_is_nobody_s_loss() -> None:
    note = bytearray(chunk(b"tIME", bytes(7)))
    note[-1] ^= 1
    assert seen(png(1, 1, 8, 0, [b"\x07"], bytes(note))).image.getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("n_rows", [0, 1, 63])
@pytest.mark.parametrize("interlaced", [False, True])
def test_too_few_rows(n_rows: int, interlaced: bool) -> None:
    rows = [bytes([9] * 64)] * n_rows
    assert reason(png(64, 64, 8, 0, rows, interlaced=interlaced)) == "truncated"


def test_black_rows_are_rows() -> None:
    assert seen(png(64, 64, 8, 0, [bytes(64)] * 64)).image.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (2, 0), (4, 3), (8, 2), (8, 4), (16, 6)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (9, 17), (3, 1)])
def test_an_interlaced_picture_is_whole(size: tuple[int, int], bits: int, colour: int) -> None:
    """Of its passes those without a pixel have no rows."""
    width, height = size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = []
    for left, dx, top, dy in (
        (0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        columns, n_rows = len(range(left, width, dx)), len(range(top, height, dy))
        rows += [bytes((columns * bits * channels + 7) // 8)] * n_rows if columns else []
    palette = (chunk(b"PLTE", bytes(48)),) if colour == 3 else ()
    assert seen(png(width, height, bits, colour, rows, *palette, interlaced=True)).width == width
    assert reason(png(width, height, bits, colour, rows[:-1], *palette, interlaced=True)) == "truncated"


def test_no_end() -> None:
    data = encoded(scene := Image.effect_noise((64, 64), 90), "PNG")
    assert reason(data[: -len(chunk(b"IEND", b""))]) == "truncated"
    assert seen(data + b"behind the end").image.size == scene.size


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"tEXt", b"iTXt"])
def test_a_long_profile_or_text(kind: bytes) -> None:
    noise = np.random.default_rng(0).bytes(1_200_000)
    body = {
        b"iCCP": b"wide\0\0" + zlib.compress(noise),
        b"zTXt": b"parameters\0\0" + zlib.compress(noise),
        b"tEXt": b"parameters\0" + b"a" * 1_200_000,
        b"iTXt": b"parameters\0\1\0\0\0" + zlib.compress(noise),
    }[kind]
    assert seen(png(1, 1, 8, 0, [b"\x07"], chunk(kind, body))).image.getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_greys_of_fewer_bits_than_the_file_are_stretched_and_named(bits: int) -> None:
    rows = [row.astype(">u2").tobytes() for row in RAMP >> (16 - bits)]
    decoded = seen(png(64, 64, 16, 0, rows))
    assert (first_row(decoded)[0], first_row(decoded)[-1]) == (0, 255)
    assert f"{bits} bits" in decoded.notes[0]
    dark = seen(png(64, 64, 16, 0, rows), stretch=False)
    assert first_row(dark)[-1] == 255 >> (16 - bits)
    assert dark.notes == ()


def test_all_sixteen_bits() -> None:
    decoded = seen(png(64, 64, 16, 0, [row.astype(">u2").tobytes() for row in RAMP]))
    assert (first_row(decoded), decoded.notes) == ([value >> 8 for value in RAMP[0]], ())


def test_greys_of_fewer_bits_with_opacity() -> None:
    samples = np.stack([RAMP >> 4, np.full_like(RAMP, 65535)], -1)
    decoded = seen(png(64, 64, 16, 4, [row.astype(">u2").tobytes() for row in samples]))
    assert np.abs(np.array(first_row(decoded)) - (RAMP[0] >> 8)).max() <= 1
    assert "12 bits" in decoded.notes[0]


@pytest.mark.parametrize("colour", [2, 6])
def test_colours_of_fewer_bits_than_the_file(colour: int) -> None:
    samples = np.zeros((64, 64, 3 if colour == 2 else 4), np.uint16)
    samples[..., 0] = RAMP >> 4
    samples[..., 1] = 4095 - (RAMP >> 4)
    if colour == 6:
        samples[..., 3] = 65535
    decoded = seen(png(64, 64, 16, colour, [row.astype(">u2").tobytes() for row in samples]))
    assert decoded.image.getpixel((63, 0)) == (255, 0, 0)
    assert decoded.image.getpixel((0, 0)) == (0, 255, 0)
    assert np.abs(np.asarray(decoded.image)[0, :, 0].astype(int) - (RAMP[0] >> 8)).max() <= 1
    assert "12 bits" in decoded.notes[0]


def test_a_black_picture_stays_black() -> None:
    for colour, channels in ((0, 1), (2, 3)):
        decoded = seen(png(4, 4, 16, colour, [bytes(4 * 2 * channels)] * 4))
        assert (decoded.image.getextrema(), decoded.notes) == (((0, 0),) * 3, ())


def test_the_transparent_colour_of_sixteen_bits_is_that_colour_alone() -> None:
    row = struct.pack(">3H", 0x8000, 0x8001, 0x8002)
    grey = seen(png(3, 1, 16, 0, [row], chunk(b"tRNS", struct.pack(">H", 0x8001))))
    assert first_row(grey) == [0x80, 255, 0x80]
    row = struct.pack(">9H", *[0x8000] * 3, *[0x8001] * 3, *[0x8002] * 3)
    colour = seen(png(3, 1, 16, 2, [row], chunk(b"tRNS", struct.pack(">3H", *[0x8001] * 3))))
    assert first_row(colour) == [0x80, 255, 0x80]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_few_bits(bits: int) -> None:
    top = (1 << bits) - 1
    row = int(f"{0:0{bits}b}{top:0{bits}b}".ljust(8, "0"), 2).to_bytes(1)
    decoded = seen(png(2, 1, bits, 0, [row], chunk(b"tRNS", struct.pack(">H", 0))))
    assert first_row(decoded)[1] == 255
    assert first_row(decoded)[0] != 255 or not decoded.notes  # white on nothing is laid over black
    kept = seen(png(2, 1, bits, 0, [row], chunk(b"tRNS", struct.pack(">H", top))))
    assert first_row(kept) == [0, 255]


def test_the_still_picture_beside_an_animation_is_its_last_frame() -> None:
    """Browsers show the animation, other viewers the still."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, default_image=True, append_images=frames[1:])
    decoded = seen(data)
    assert decoded.image.getpixel((4, 4)) == (0, 255, 0)
    shown = decode_frames(data, max_pixels=1000, frames=FrameChoice(8, "mixed"))
    assert [one.image.getpixel((4, 4)) for one in shown] == [(0, 255, 0), (0, 0, 255), (255, 0, 0)]
    plain = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert seen(plain).image.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", [b"acTL", b"fcTL"])
def test_a_damaged_animation_is_no_still_picture(kind: bytes) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = bytearray(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    data[data.index(kind) + 7] ^= 1
    assert reason(bytes(data)) == "corrupt"


def test_too_few_rows_of_an_animation() -> None:
    """Beside a still picture that is whole."""

    def animated(n_rows: int) -> bytes:
        still = png(8, 8, 8, 0, [bytes([9] * 8)] * 8, chunk(b"acTL", struct.pack(">II", 1, 0)))
        frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 10, 0, 0))
        rows = chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress((b"\0" + bytes([7] * 8)) * n_rows))
        end = chunk(b"IEND", b"")
        return still[: -len(end)] + frame + rows + end

    assert seen(animated(8)).image.getpixel((4, 7)) == (7, 7, 7)
    assert reason(animated(5)) == "truncated"


def test_the_limit_of_pixels_comes_before_the_still_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (100, 100), colour) for colour in ("red", "lime")]
    data = encoded(frames[0], "PNG", save_all=True, default_image=True, append_images=frames[1:])
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=9999)
    assert caught.value.reason == "too_many_pixels"
