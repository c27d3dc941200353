"""Images that labels are about: decoded in child processes, each failure its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import DecodersUnavailable, StoreUnavailable
from scanfleet.producer.labels import fetching
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.storage.base import FetchedObject, refused
from scanfleet.storage.folder import FolderStore
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
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
image = NewImage(uri={images[0].uri!r}, root={images[0].root!r})
print(*(seen.width for seen in fetch_images([image], load_settings(data_dir={str(tmp_path)!r})).seen.values()))
print(*(name for name in sys.modules if name.endswith("ImagePlugin") or name in ("simplejpeg", "numpy")))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANFLEET")}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()
    assert told == ["9", ""]


class Refusing(FolderStore):
    """Refuses some names, for some of the fetches."""

    refuses: ClassVar[Callable[[str, int], bool]]
    fetched: ClassVar[list[str]] = []

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        self.fetched.append(uri)
        if type(self).refuses(Path(uri).name, len(self.fetched)):
            raise refused("denied", f"{uri}: AccessDenied")
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> type[Refusing]:
    monkeypatch.setattr(fetching, "open_store", lambda uri, settings, root: Refusing(Path(root)))
    Refusing.fetched.clear()
    return Refusing


def test_one_object_that_is_refused_is_unread(tmp_path: Path, refusing: type[Refusing]) -> None:
    refusing.refuses = lambda name, _: name == "b.png"
    picture = encoded(Image.new("RGB", (9, 7)), "PNG")
    images = named(tmp_path, **{"b.png": picture, "a.png": picture, "c.png": picture})
    found = fetch_images(images, load_settings(data_dir=tmp_path))
    assert {Path(uri).name for uri in found.seen} == {"a.png", "c.png"}
    assert {Path(uri).name: error.reason for uri, error in found.unread.items()} == {"b.png": "denied"}


@pytest.mark.parametrize("first", [0, 2])  # from the start, or from when two were read
def test_a_refusal_of_everything_says_nothing_of_an_image(tmp_path: Path, refusing: type[Refusing], first: int) -> None:
    refusing.refuses = lambda _, number: number > first
    picture = encoded(Image.new("RGB", (9, 7)), "PNG")
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        fetch_images(named(tmp_path, **{f"{name}.png": picture for name in "abcd"}), load_settings(data_dir=tmp_path))
