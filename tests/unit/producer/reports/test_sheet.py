"""The contact sheet shows the bytes that were judged, decoded in a child process, and no larger than their share."""

import base64
import hashlib
import io
import random
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.results.results import FailureInfo, Result
from scanfleet.decoding.pool import Decoders
from scanfleet.producer.reports.sheet.pictures import MOST_BYTES, PAGE_BYTES, RUNGS, Picture, Pictures, bytes_each, draw
from tests.helpers.odd_files import encoded

JUDGED = encoded(Image.new("RGB", (40, 30), "red"), "PNG")


def result(path: Path, **more: object) -> Result:
    given = dict.fromkeys(("etag", "size", "meta")) | {"width": 40, "height": 30, "label": "overlay"}
    given |= {"image_id": 1, "scan": "s", "check": "overlay", "model": "m", "uri": str(path), "root": str(path.parent)}
    given |= {"state": "verdict", "content_sha256": hashlib.sha256(JUDGED).hexdigest()}
    return Result(**(given | more))  # type: ignore[arg-type]


def picture(folder: Path, data: bytes, *, decode: str = "scanfleet.images.decoding:decode", **more: object) -> Picture:
    """Of a file that holds `data` now."""
    path = folder / "a.png"
    path.write_bytes(data)
    settings = load_settings(data_dir=folder)
    with Decoders(settings, n_children=1, decode=decode) as decoders:
        return Pictures(settings, decoders, n=1).drawn(result(path, **more))


def opened(drawn: Picture) -> Image.Image:
    kind, data = str(drawn.uri).split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def noise(width: int, height: int) -> Image.Image:
    """The picture that compresses worst."""
    return Image.frombytes("RGB", (width, height), random.Random(7).randbytes(width * height * 3))


def test_the_picture_that_was_judged(tmp_path: Path) -> None:
    made = picture(tmp_path, JUDGED)
    assert made.missing is None
    assert (made.width, made.height) == opened(made).size == (40, 30)
    red, green, _ = opened(made).convert("RGB").getpixel((20, 15))  # type: ignore[misc]
    assert red > 200 > 50 > green


@pytest.mark.parametrize(
    "data", [encoded(Image.new("RGB", (40, 30), "blue"), "PNG"), b"no picture any more"], ids=["other", "none"]
)
def test_other_bytes_are_not_shown(tmp_path: Path, data: bytes) -> None:
    made = picture(tmp_path, data)
    assert made.uri is None
    assert "changed since" in str(made.missing)


def test_what_was_never_judged_is_not_shown_and_says_why(tmp_path: Path) -> None:
    failure = FailureInfo(stage="decode", reason="truncated", detail="so")
    failed = picture(tmp_path, JUDGED, state="failed", failure=failure)
    assert (failed.uri, failed.missing) == (None, "decode: truncated: so")
    waiting = picture(tmp_path, JUDGED, state="pending", content_sha256=None)
    assert (waiting.uri, waiting.missing) == (None, "no answer: pending")


def test_a_decoder_that_does_not_start_leaves_the_sheet_whole(tmp_path: Path) -> None:
    made = picture(tmp_path, JUDGED, decode="tests.no_such_module:decode")
    assert made.uri is None
    assert "decoder process" in str(made.missing)


@pytest.mark.parametrize("n", [1, 200, 2000])
def test_the_worst_picture_keeps_to_its_share(n: int) -> None:
    made = draw(noise(900, 600), result(Path("/a.png")), max_bytes=bytes_each(n))
    assert len(base64.b64decode(str(made.uri).split(",")[1])) <= bytes_each(n) <= MOST_BYTES
    assert made.width > made.height


def test_a_plain_picture_is_shown_as_large_as_the_page_allows_and_never_larger_than_it_is() -> None:
    plain = Image.new("RGB", (1200, 800), "navy")
    assert draw(plain.copy(), result(Path("/a.png")), max_bytes=bytes_each(10)).width == RUNGS[0][0]
    assert 300 < draw(plain.copy(), result(Path("/a.png")), max_bytes=bytes_each(2000)).width < 500
    assert draw(Image.new("RGB", (50, 20)), result(Path("/a.png")), max_bytes=bytes_each(10)).width == 50


def test_shares_fill_the_page_and_never_more() -> None:
    assert 2000 * bytes_each(2000) * 4 / 3 < PAGE_BYTES < 30_000_000
    assert bytes_each(10**9) == 0
