"""Animations and pages: which frames, when, and what each of them shows."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from scanfleet.errors import ImageError
from scanfleet.images import Decoded
from scanfleet.images.decoding import decode, decode_frames
from scanfleet.images.types import FrameChoice
from tests.helpers.animations import animated, frames
from tests.helpers.odd_files import noise

MAX_PIXELS = 1_000_000
MIXED = FrameChoice(8, "mixed")
KINDS: dict[str, dict[str, Any]] = {
    "GIF": {"duration": 80},
    "PNG": {"duration": 80},
    "WEBP": {"duration": 80},
    "AVIF": {"duration": 80, "speed": 9},
    "TIFF": {},
}


def seen(data: bytes, choice: FrameChoice = MIXED, max_pixels: int = MAX_PIXELS) -> list[Decoded]:
    return list(decode_frames(data, max_pixels=max_pixels, frames=choice))


def numbers(decoded: list[Decoded]) -> list[int]:
    return [one.frame.number for one in decoded if one.frame is not None]


def far(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(one, other.convert("RGB"))).mean)


def reason(data: bytes, choice: FrameChoice = MIXED) -> str:
    with pytest.raises(ImageError) as caught:
        seen(data, choice)
    return caught.value.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 7, 40])
def test_frames_are_those_that_were_written(kind: str, n: int) -> None:
    written = frames(n)
    data = animated(kind, written, **KINDS[kind])
    decoded = seen(data)
    assert [one.n_frames for one in decoded] == [n] * min(n, 8)
    assert {0, n - 1} <= set(numbers(decoded))
    for one in decoded:
        assert one.frame is not None
        assert far(one.image, written[one.frame.number]) < 4
        assert one.frame.seconds == (None if kind == "TIFF" else pytest.approx(0.08 * one.frame.number))
        alone = decode(data, max_pixels=MAX_PIXELS, frame=one.frame.number)
        assert (alone.frame, alone.n_frames) == (one.frame, n)
        assert alone.image.tobytes() == one.image.tobytes()


@pytest.mark.parametrize("kind", [*KINDS, "JPEG", "BMP"])
def test_one_picture_is_no_frame(kind: str) -> None:
    image = noise()
    data = animated(kind, [image]) if kind not in ("JPEG", "BMP") else encoded(image, kind)
    (one,) = seen(data)
    assert (one.frame, one.n_frames) == (None, 1)
    assert one.image.tobytes() == decode(data, max_pixels=MAX_PIXELS).image.tobytes()


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_that_differs_is_found(kind: str) -> None:
    plain = [Image.new("RGB", (64, 64), (90, 90, 90 + number % 2)) for number in range(40)]
    plain[23] = noise(64, 64)
    assert 23 in numbers(seen(animated(kind, plain, **KINDS[kind]), FrameChoice(6, "mixed")))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (FrameChoice(3, "first"), [0, 1, 2]),
        (FrameChoice(4, "even"), [0, 6, 12, 19]),
        (FrameChoice(1, "mixed"), [0]),
        (FrameChoice(2, "mixed"), [0, 19]),
    ],
)
def test_ways_to_choose(choice: FrameChoice, expected: list[int]) -> None:
    assert numbers(seen(animated("GIF", frames(20)), choice)) == expected


def test_as_many_frames_as_have_the_pixels_of_one_picture() -> None:
    data = animated("GIF", frames(20))
    assert len(seen(data, max_pixels=3 * 64 * 64 + 1)) == 3
    assert len(seen(data, max_pixels=64 * 64)) == 1
    with pytest.raises(ImageError) as caught:
        seen(data, max_pixels=64 * 64 - 1)
    assert caught.value.reason == "too_many_pixels"


def gif(n: int, *, size: tuple[int, int] = (4, 4), canvas: tuple[int, int] = (16, 16), delay: int = 0) -> bytes:
    data = encoded(Image.new("P", size), "GIF")
    at = data.index(b"\x2c\0\0\0\0")
    head = data[:6] + struct.pack("<HH", *canvas) + data[10:at]
    return head + (b"!\xf9\4\0" + struct.pack("<H", delay) + b"\0\0" + data[at:-1]) * n + b";"


def test_a_hundred_thousand_frames_are_counted_and_not_looked_at() -> None:
    decoded = seen(gif(100_000), FrameChoice(4, "even"), max_pixels=256 * 100)
    assert decoded[0].n_frames == 100_000
    assert numbers(decoded)[-1] == 4 * 100 - 1  # four times the largest picture


def test_frames_without_a_duration_are_shown_as_browsers_do() -> None:
    assert [one.frame.seconds for one in seen(gif(3)) if one.frame] == [0.0, 0.1, 0.2]


def test_a_part_larger_than_the_canvas_costs_its_own_pixels() -> None:
    data = gif(1, canvas=(4, 4))[:-1] + gif(1, size=(400, 400))[13 + 6 :]
    decoded = seen(data, max_pixels=400 * 400)
    assert len(decoded) == 1


def apng(side: int, parts: list[tuple[int, int, int, int, tuple[int, int, int, int]]]) -> bytes:
    """Squares on a canvas: (side, place, what becomes of it, how it is laid, colour)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    out = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0))]
    out.append(chunk(b"acTL", struct.pack(">II", len(parts), 0)))
    for number, (own, place, after, over, colour) in enumerate(parts):
        out.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, own, own, place, place, 1, 10, after, over)))
        rows = zlib.compress((b"\0" + bytes(colour) * own) * own)
        out.append(chunk(b"fdAT", bytes(4) + rows) if number else chunk(b"IDAT", rows))
    return b"".join((*out, chunk(b"IEND", b"")))


KEEP, CLEAR, RESTORE = 0, 1, 2
RED, GREEN, BLUE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
NOTHING, WHITE = (0, 0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("after", "over", "expected"),
    [
        (KEEP, 1, [RED[:3], GREEN[:3], GREEN[:3], BLUE[:3]]),
        (RESTORE, 1, [RED[:3], GREEN[:3], RED[:3], BLUE[:3]]),
        (CLEAR, 1, [RED[:3], GREEN[:3], WHITE, BLUE[:3]]),
        (KEEP, 0, [RED[:3], GREEN[:3], GREEN[:3], BLUE[:3]]),
    ],
)
def test_parts_are_laid_and_disposed_of_as_in_a_browser(
    after: int, over: int, expected: list[tuple[int, int, int]]
) -> None:
    """Red, then a green square in it, then a small one that shows what has become of that, then a blue one."""
    parts = [(32, 0, KEEP, 0, RED), (8, 8, after, over, GREEN), (2, 24, KEEP, 1, NOTHING), (8, 8, KEEP, over, BLUE)]
    decoded = seen(apng(32, parts))
    assert [one.image.getpixel((10, 10)) for one in decoded] == expected
    assert {one.image.getpixel((2, 2)) for one in decoded} == {RED[:3]}


@pytest.mark.parametrize(("over", "expected"), [(1, RED[:3]), (0, WHITE)])
def test_a_transparent_part_is_laid_over_or_takes_the_place(over: int, expected: tuple[int, int, int]) -> None:
    _, second = seen(apng(32, [(32, 0, KEEP, 0, RED), (8, 8, KEEP, over, NOTHING)]))
    assert second.image.getpixel((10, 10)) == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_each_frame_is_turned(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [noise(64, 32), noise(64, 32).transpose(Image.Transpose.ROTATE_180)]
    how: dict[str, Any] = {"tiffinfo": {0x0112: 6}} if kind == "TIFF" else {"exif": exif.tobytes()}
    decoded = seen(animated(kind, images, **how))
    for one, image in zip(decoded, images, strict=True):
        assert (one.width, one.height) == (32, 64)
        assert far(one.image, image.transpose(Image.Transpose.ROTATE_270)) < 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_in_a_later_frame_is_the_failure_of_the_file(kind: str, share: float) -> None:
    data = animated(kind, [noise(64 + 0, 64), *frames(12)], **KINDS[kind])
    assert reason(data[: int(len(data) * share)]) in ("truncated", "corrupt")


def test_a_damaged_frame_that_was_only_looked_at() -> None:
    images = [noise(64, 64).rotate(3 * number, expand=False, fillcolor=(9, 9, 9)) for number in range(20)]
    data = bytearray(animated("WEBP", images, lossless=False, quality=80, allow_mixed=False))
    at = [place for place in range(len(data)) if data[place : place + 4] == b"ANMF"][9]
    assert 9 not in numbers(seen(bytes(data), FrameChoice(3, "mixed")))
    data[at + 200 : at + 1000] = bytes(800)
    assert reason(bytes(data), FrameChoice(3, "mixed")) in ("truncated", "corrupt")


def test_pages_of_a_tiff_that_goes_round_in_circles() -> None:
    data = bytearray(animated("TIFF", frames(3)))
    (first,) = struct.unpack_from("<I", data, 4)
    at = first
    while True:
        (n,) = struct.unpack_from("<H", data, at)
        (after,) = struct.unpack_from("<I", data, at + 2 + 12 * n)
        if not after:
            break
        at = after
    struct.pack_into("<I", data, at + 2 + 12 * n, first)
    assert numbers(seen(bytes(data))) == [0, 1, 2]


def test_views_of_an_mpo_and_no_gain_map() -> None:
    images = frames(2)
    data = animated("MPO", images, quality=95)
    decoded = seen(data)
    assert numbers(decoded) == [0, 1]
    assert all(far(one.image, image) < 30 for one, image in zip(decoded, images, strict=True))
    at = data.index(b"\xff\xd8", 4)
    second = data[at:]
    assert b"hdrgm:" not in second
    marked = data.replace(second, second[:2] + b"\xff\xe1\0\x0ahdrgm:\0\0" + second[2:])
    assert [one.n_frames for one in seen(marked)] == [1]


def test_pages_need_not_be_alike() -> None:
    sizes = [(64, 32), (32, 96)]
    decoded = seen(animated("TIFF", [noise(*size) for size in sizes]))
    assert [(one.width, one.height) for one in decoded] == sizes


def test_a_frame_that_is_not_there() -> None:
    with pytest.raises(ImageError) as caught:
        decode(animated("GIF", frames(3)), max_pixels=MAX_PIXELS, frame=3)
    assert "3" in caught.value.detail
