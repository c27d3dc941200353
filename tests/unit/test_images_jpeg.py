"""JPEG: the same bits as Pillow's, and a failure wherever libjpeg had to fill in."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanfleet.errors import ImageError
from scanfleet.images import Enough
from scanfleet.images.decoding import decode

LIMIT = 1_000_000
EOI = b"\xff\xd9"


def scene(width: int = 320, height: int = 240) -> Image.Image:
    """A colour gradient with some grain."""
    random = np.random.default_rng(width)
    coarse = random.integers(0, 255, (max(2, height // 20), max(2, width // 20), 3), dtype=np.uint8)
    grain = Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return Image.blend(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), grain, 0.1)


def saved(folder: Path, image: Image.Image, **options: object) -> bytes:
    path = folder / "a.jpg"  # restart markers need a real file: in memory Pillow's buffer is too small for them
    image.save(path, "JPEG", quality=85, **options)
    return path.read_bytes()


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=LIMIT)
    assert caught.value.stage == "decode"
    return caught.value.reason


def as_pillow(data: bytes, scale: int = 1) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        if scale > 1:
            opened.draft(None, (max(1, opened.width // scale), max(1, opened.height // scale)))
        return opened.convert("RGB")


KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 20},
}
MODES = [("RGB", how) for how in ("4:4:4", "4:2:2", "4:2:0")] + [("L", "4:4:4"), ("CMYK", "4:4:4")]


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 17), (333, 127)])
@pytest.mark.parametrize(("mode", "subsampling"), MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_is_pillow_s(tmp_path: Path, kind: str, mode: str, subsampling: str, size: tuple[int, int]) -> None:
    data = saved(tmp_path, scene(*size).convert(mode), subsampling=subsampling, **KINDS[kind])
    for scale in (1, 2, 4, 8):
        expected = as_pillow(data, scale)
        enough = Enough(expected.width * expected.height, min(expected.size))
        assert decode(data, max_pixels=LIMIT, enough=enough).image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("transform", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_every_colour_transform_is_pillow_s(tmp_path: Path, mode: str, transform: int) -> None:
    data = saved(tmp_path, scene(64, 48).convert(mode), subsampling="4:4:4")
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    if mode == "RGB":
        data = data[:2] + adobe + bytes([transform]) + data[20:]  # in the place of the JFIF segment
    else:
        at = data.index(adobe) + len(adobe)
        data = data[:at] + bytes([transform]) + data[at + 1 :]
    assert decode(data, max_pixels=LIMIT).image.tobytes() == as_pillow(data).tobytes()


def test_a_grey_jpeg_of_odd_sampling_factors(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path, scene().convert("L")))
    data[data.index(b"\xff\xc0") + 11] = 0x22  # they mean nothing with one component
    assert decode(bytes(data), max_pixels=LIMIT).image.tobytes() == as_pillow(bytes(data)).tobytes()


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda data, at: data[:at],
    "cut and ended": lambda data, at: data[:at] + EOI,
    "zeros to the end": lambda data, at: data[:at] + bytes(len(data) - at),
    "zeros and ended": lambda data, at: data[:at] + bytes(len(data) - at - 2) + EOI,
    "a hole": lambda data, at: data[: at - 512] + bytes(512) + data[at:],
    "a lost block": lambda data, at: data[: at - 512] + data[at:],
}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_not_all_there_is_a_failure(tmp_path: Path, kind: str, damage: str, share: float) -> None:
    data = saved(tmp_path, scene(), **KINDS[kind])
    assert reason(DAMAGES[damage](data, int(len(data) * share))) == "truncated"


def test_a_lost_restart_interval(tmp_path: Path) -> None:
    data = saved(tmp_path, scene(), restart_marker_blocks=20)
    start, end = data.index(b"\xff\xd3"), data.index(b"\xff\xd5")
    assert reason(data[:start] + data[end:]) == "truncated"


@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("ended", [True, False])
def test_a_progressive_picture_cut_between_two_scans(tmp_path: Path, n: int, ended: bool) -> None:
    """libjpeg warns of nothing: the picture is complete, and blurred or grey."""
    data = saved(tmp_path, scene(), progressive=True)
    at = -1
    for _ in range(n + 1):
        at = data.index(b"\xff\xda", at + 1)
    tables = data.rindex(b"\xff\xc4", 0, at)  # the scan's own stand before it
    assert reason(data[:tables] + EOI * ended) == "truncated"


@pytest.mark.parametrize("n_bytes", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_lacks_its_end_marker_alone_is_whole(tmp_path: Path, kind: str, n_bytes: int) -> None:
    data = saved(tmp_path, scene(), **KINDS[kind])
    assert decode(data[:-n_bytes], max_pixels=LIMIT).image.tobytes() == as_pillow(data).tobytes()


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "an unknown version of JFIF": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\2", 1),
    "bytes between two segments": lambda data: data.replace(b"\xff\xdb", bytes(5) + b"\xff\xdb", 1),
    "no spectral range": lambda data: data.replace(b"\0\x3f\0", b"\0\0\0", 1),
    "bytes before the end": lambda data: data[:-2] + bytes(4) + EOI,
    "bytes behind the end": lambda data: data + bytes(5000),
    "fill bytes": lambda data: data.replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    "no JFIF": lambda data: data[:2] + data[20:],
}


@pytest.mark.parametrize("oddity", HARMLESS)
def test_oddities_that_take_nothing_from_the_picture(tmp_path: Path, oddity: str) -> None:
    data = saved(tmp_path, scene())
    odd = HARMLESS[oddity](data)
    assert odd != data
    assert decode(odd, max_pixels=LIMIT).image.tobytes() == as_pillow(data).tobytes()


@pytest.mark.parametrize("oddity", HARMLESS)
def test_an_oddity_does_not_hide_damage(tmp_path: Path, oddity: str) -> None:
    data = HARMLESS[oddity](saved(tmp_path, scene()))
    assert reason(data[: len(data) // 2] + EOI) == "truncated"


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_flat_picture_may_hold_zeros(tmp_path: Path, mode: str, optimize: bool) -> None:
    data = saved(tmp_path, Image.new(mode, (900, 900), "white"), optimize=optimize)
    assert (bytes(32) in data) == optimize
    assert decode(data, max_pixels=LIMIT).image.getpixel((800, 800)) == (255, 255, 255)


def test_a_hole_of_one_small_block(tmp_path: Path) -> None:
    """The codes behind it may fall into step again, with as many blocks."""
    data = saved(tmp_path, scene())
    for at in range(1000, len(data) - 100, 97):
        assert reason(data[:at] + bytes(40) + data[at + 40 :]) in ("truncated", "corrupt")


def test_twelve_bits_are_not_read_and_named(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path, scene()))
    at = data.index(b"\xff\xc0")
    data[at + 1 : at + 5] = b"\xc1\0\x11\x0c"
    assert reason(bytes(data)) == "unsupported"


def test_a_cut_thumbnail_does_not_make_the_picture_worse(tmp_path: Path) -> None:
    thumbnail = saved(tmp_path, scene(40, 30), progressive=True)
    exif = b"Exif\0\0" + thumbnail[: len(thumbnail) // 2] + EOI
    data = saved(tmp_path, scene(), exif=exif, progressive=True)
    assert decode(data, max_pixels=LIMIT).image.tobytes() == as_pillow(data).tobytes()
