"""The contact sheet shows the bytes that were judged, decoded in a child process."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.results.results import Result
from scanfleet.decoding.pool import Decoders
from scanfleet.producer.reports.contact_sheet import Card, _card, _Images
from tests.helpers.odd_files import encoded

JUDGED = encoded(Image.new("RGB", (40, 30), "red"), "PNG")


def card(folder: Path, data: bytes, *, decode: str = "scanfleet.images.decoding:decode") -> Card:
    """Of a file that holds `data` now."""
    path = folder / "a.png"
    path.write_bytes(data)
    result = Result(
        image_id=1,
        scan="s",
        check="overlay",
        model="m",
        uri=str(path),
        root=str(folder),
        etag=None,
        size=None,
        width=40,
        height=30,
        content_sha256=hashlib.sha256(JUDGED).hexdigest(),
        meta=None,
        state="verdict",
        label="overlay",
    )
    settings = load_settings(data_dir=folder)
    with Decoders(settings, n_children=1, decode=decode) as decoders:
        return _card(result, images=_Images(settings, decoders), truth_column=None)


def test_the_picture_that_was_judged(tmp_path: Path) -> None:
    made = card(tmp_path, JUDGED)
    assert made.missing is None
    assert str(made.thumbnail).startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "data", [encoded(Image.new("RGB", (40, 30), "blue"), "PNG"), b"no picture any more"], ids=["other", "none"]
)
def test_other_bytes_are_not_shown(tmp_path: Path, data: bytes) -> None:
    made = card(tmp_path, data)
    assert made.thumbnail is None
    assert "changed since" in str(made.missing)


def test_a_decoder_that_does_not_start_leaves_the_sheet_whole(tmp_path: Path) -> None:
    made = card(tmp_path, JUDGED, decode="tests.no_such_module:decode")
    assert made.thumbnail is None
    assert "decoder process" in str(made.missing)
