"""Folders and single images as sources, and what a person may name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from scanfleet.config.model_names import require_model
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect
from scanfleet.errors import AccessDenied, BadSettings, BadSource, RequestError, SourceNotFound
from scanfleet.producer.reports.output import target
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listed import BucketSource
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.memory import MemoryStore

NOBODY = 65534


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def listed(folder: Path | str, settings: Settings, **filters: object) -> tuple[set[str], int]:
    """Return the names taken, and the number of files skipped."""
    listing = Listing([open_source(str(folder), settings)], Filters(**filters))  # type: ignore[arg-type]
    top = os.path.realpath(folder)
    return {image.uri.removeprefix(f"{top}/") for image in listing.images()}, listing.counts.n_skipped


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything; be nobody for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("top", ["", "{folder}/"])
def test_globs_of_exclude_that_match_nothing_are_known_once_all_is_listed(
    tmp_path: Path, settings: Settings, top: str
) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "thumbs/a.jpg")
    globs = tuple(top.format(folder=tmp_path) + glob for glob in ("thumbs", "thumb", "b.*"))
    listing = Listing([open_source(str(tmp_path), settings)], Filters(exclude=globs))
    images = listing.images()
    assert next(images).uri == str(tmp_path / "a.jpg")
    assert listing.counts.idle is None
    assert list(images) == []
    assert listing.counts.idle == {globs[1]}


def test_a_folder_gives_its_images_and_counts_the_rest(tmp_path: Path, settings: Settings) -> None:
    put(tmp_path, "a.jpg", "sub/B.PNG", "ü mit leer.webp", "notes.md", "sub/deep/c.tiff")
    assert listed(tmp_path, settings) == ({"a.jpg", "sub/B.PNG", "ü mit leer.webp", "sub/deep/c.tiff"}, 1)


def test_an_image_knows_its_folder_and_version(tmp_path: Path, settings: Settings) -> None:
    put(tmp_path, "sub/a.jpg")
    (image,) = Listing([open_source(str(tmp_path), settings)], Filters()).images()
    assert (image.root, image.size) == (str(tmp_path), 1)
    (tmp_path / "sub/a.jpg").write_bytes(b"longer")
    (changed,) = Listing([open_source(str(tmp_path), settings)], Filters()).images()
    assert changed.identity != image.identity


def test_a_relative_name_and_a_link_are_the_same_source(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "pics/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "pics")
    monkeypatch.chdir(tmp_path)
    names = {open_source(text, settings).name for text in ("pics", "./pics/", "link", str(tmp_path / "pics"))}
    assert names == {str(tmp_path / "pics")}


@pytest.mark.parametrize("glob", ["autumn*", "autumn sale/*", "autumn sale"])
def test_what_lies_in_an_excluded_folder_is_counted(tmp_path: Path, settings: Settings, glob: str) -> None:
    put(tmp_path, "a.jpg", "autumn sale/b.jpg", "autumn sale/deep/c.jpg", "autumn sale/deep/notes.md", "d.txt")
    assert listed(tmp_path, settings, exclude=(glob,)) == ({"a.jpg"}, 4)


def test_an_excluded_folder_that_cannot_be_opened_counts_as_one(settings: Settings) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        put(folder, "a.jpg", "secret/b.jpg")
        (folder / "secret").chmod(0)
        with unprivileged():
            with pytest.raises(AccessDenied, match="secret"):
                listed(folder, settings)
            assert listed(folder, settings, exclude=("secret/*",)) == ({"a.jpg"}, 1)


def test_a_folder_that_may_not_be_read_is_named(settings: Settings) -> None:
    with TemporaryDirectory() as name:
        Path(name).chmod(0)
        with unprivileged(), pytest.raises(AccessDenied, match="no permission to read the folder"):
            listed(name, settings)


def test_what_lies_in_a_closed_folder_is_named_not_a_crash(settings: Settings) -> None:
    with TemporaryDirectory() as name:
        put(Path(name), "closed/a.jpg", "closed/sub/b.jpg", "data/x")
        (Path(name) / "closed").chmod(0)
        Path(name).chmod(0o755)
        with unprivileged():
            for place in ("closed/a.jpg", "closed/sub"):
                with pytest.raises(AccessDenied, match="no permission to reach"):
                    open_source(f"{name}/{place}", settings)
            with pytest.raises(RequestError, match="no permission to write in"), target(Path(name) / "x", form="csv"):
                pass
            with pytest.raises(BadSettings, match="data_dir: no permission to write"):
                connect(load_settings(data_dir=f"{name}/data"))
            for place in ("x.db", "closed/x.db"):
                with pytest.raises(BadSettings, match="database_url: "):
                    connect(load_settings(data_dir=f"{name}/data", database_url=f"sqlite:///{name}/{place}"))
            with pytest.raises(BadSettings, match="model"):
                require_model(f"{name}/closed/sub", elsewhere=False)


def test_a_name_that_is_not_utf8_is_listed(tmp_path: Path, settings: Settings) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"x")
    (image,) = Listing([open_source(str(tmp_path), settings)], Filters()).images()
    assert image.uri.startswith("file://")
    assert image.uri.endswith("%FF.jpg")


def test_a_single_image_is_a_source(tmp_path: Path, settings: Settings) -> None:
    put(tmp_path, "a b.jpg")
    (image,) = Listing([open_source(str(tmp_path / "a b.jpg"), settings)], Filters()).images()
    assert (image.uri, image.root, image.size) == (f"{tmp_path}/a b.jpg", str(tmp_path), 1)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing", SourceNotFound, "no such folder or file"),
        ("list.docx", BadSource, "neither a folder nor an image nor a manifest"),
        ("ftp://host/x", BadSource, "ftp:// is not supported"),
        ("s3://", BadSource, "names no bucket"),
    ],
)
def test_what_is_no_source_is_refused(
    tmp_path: Path, settings: Settings, name: str, error: type[Exception], words: str
) -> None:
    put(tmp_path, "list.docx")
    with pytest.raises(error, match=words):
        open_source(name if "://" in name else str(tmp_path / name), settings)


def test_globs_see_a_bucket_below_the_last_slash_of_the_prefix() -> None:
    store = MemoryStore({f"s3://b/{key}": b"x" for key in ("2026/ads/x.jpg", "2026/ads/thumbs/x.jpg", "2025/x.jpg")})

    def taken(prefix: str, glob: str) -> list[str]:
        listing = Listing([BucketSource(prefix, store)], Filters(include=(glob,)))
        return [image.uri for image in listing.images()]

    assert taken("s3://b/2026/", "ads/*.jpg") == ["s3://b/2026/ads/thumbs/x.jpg", "s3://b/2026/ads/x.jpg"]
    assert taken("s3://b/2026/ad", "ads/thumbs/*") == ["s3://b/2026/ads/thumbs/x.jpg"]
    assert taken("s3://b", "2025/*") == ["s3://b/2025/x.jpg"]


def test_a_bucket_goes_on_behind_a_cursor_and_a_sample_begins_anew() -> None:
    store = MemoryStore({f"s3://b/{number}.jpg": b"x" for number in range(9)})
    listing = Listing([BucketSource("s3://b/", store)], Filters())
    images = list(listing.images())
    assert list(listing.images(listing.cursor_at(images[4]))) == images[5:]
    assert Listing(listing.sources, Filters(sample=3.0)).cursor_at(images[4]) is None
    assert Listing([*listing.sources] * 2, Filters()).cursor_at(images[4]) is None
