"""Images that labels are about: decoded in child processes, each failure its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from producer.labels import fetching
from producer.labels.fetching import fetch_images
from scanfleet.config.settings import load_settings
from scanfleet.db.scans.batches import NewImage
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import DecodersUnavailable
from tests.helpers.odd_files import encoded


def named(folder: Path, **files: bytes) -> list[NewImage]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [NewImage(uri=str(folder / name), root=str(folder)) for name in files]


def test_an_image_that_kills_its_decoder_is_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fetching, "Decoders", lambda settings: Decoders(settings, decode="tests.helpers.bad_decoders:decode")
    )
    images = named(tmp_path, sound=b"picture 40 30", deadly=b"abort", slow=b"burn")
    found = fetch_images(images, load_settings(data_dir=tmp_path, decode_cpu_seconds=0.5))
    assert {Path(uri).name: (seen.width, seen.height) for uri, seen in found.seen.items()} == {"sound": (40, 30)}
    assert {Path(uri).name: error.reason for uri, error in found.unread.items()} == {
        "deadly": "kills_the_decoder",
        "slow": "too_slow",
    }


def test_no_decoder_is_no_failure_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "Decoders", lambda settings: Decoders(settings, decode="tests.no_such_module:decode"))
    with pytest.raises(DecodersUnavailable):
        fetch_images(named(tmp_path, sound=b"picture"), load_settings(data_dir=tmp_path))


def test_this_process_decodes_nothing(tmp_path: Path) -> None:
    images = named(tmp_path, **{"a.png": encoded(Image.new("RGB", (9, 7)), "PNG")})
    program = f"""
import sys
from producer.labels.fetching import fetch_images
from scanfleet.config.settings import load_settings
from scanfleet.db.scans.batches import NewImage
image = NewImage(uri={images[0].uri!r}, root={images[0].root!r})
print(*(seen.width for seen in fetch_images([image], load_settings(data_dir={str(tmp_path)!r})).seen.values()))
print(*(name for name in sys.modules if name.endswith("ImagePlugin") or name in ("simplejpeg", "numpy")))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANFLEET")}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()
    assert told == ["9", ""]
