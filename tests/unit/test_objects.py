"""Stores: what is listed can be read, what leads out is refused, and the world's faults are not the image's."""

import os
from pathlib import Path

import pytest

from scanfleet.errors import AccessDenied, BadSource, ImageError, SourceNotFound, StoreUnavailable
from scanfleet.objects import FolderStore, MemoryStore, ObjectStore, open_store, path_to_uri, uri_to_path
from scanfleet.settings import load_settings


def uris(store: ObjectStore, location: str) -> list[str]:
    return sorted(info.uri for info in store.list(location))


def reason(store: ObjectStore, uri: str, *, etag: str | None = None, max_bytes: int = 1000) -> str:
    with pytest.raises(ImageError) as caught:
        store.fetch(uri, etag=etag, max_bytes=max_bytes)
    assert caught.value.stage == "fetch"
    return caught.value.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    (root / "sub dir").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"a")
    (root / "sub dir" / "ü b.png").write_bytes(b"b" * 10)
    return root


def test_a_folder_lists_all_its_files_and_reads_them_back(folder: Path) -> None:
    store = FolderStore(folder)
    listed = list(store.list(str(folder)))
    assert sorted(info.uri for info in listed) == [str(folder / "a.jpg"), str(folder / "sub dir" / "ü b.png")]
    assert {store.fetch(info.uri, etag=info.etag, max_bytes=100) for info in listed} == {b"a", b"b" * 10}
    assert sorted(info.size or 0 for info in listed) == [1, 10]


def test_a_name_that_is_not_utf8_survives(folder: Path) -> None:
    raw = os.fsencode(folder) + b"/\xff\xfe.jpg"
    with open(raw, "wb") as file:
        file.write(b"raw")
    uri = path_to_uri(raw)
    uri.encode()  # every database can hold it
    assert uri_to_path(uri) == raw
    assert uri in uris(FolderStore(folder), str(folder))
    assert FolderStore(folder).fetch(uri, etag=None, max_bytes=100) == b"raw"


def test_links_out_of_the_folder_are_neither_listed_nor_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(secret)
    (folder / "inside.jpg").symlink_to(folder / "a.jpg")
    store = FolderStore(folder)
    assert str(folder / "link.jpg") not in uris(store, str(folder))
    assert str(folder / "inside.jpg") in uris(store, str(folder))
    assert reason(store, str(folder / "link.jpg")) == "refused"
    assert reason(store, str(folder / ".." / "secret.jpg")) == "refused"
    assert reason(store, str(secret)) == "refused"


def test_a_file_that_became_a_link_after_the_listing_is_refused(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(secret)
    assert reason(FolderStore(folder), str(folder / "a.jpg")) == "refused"


def test_pipes_are_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    assert str(folder / "pipe.jpg") not in uris(FolderStore(folder), str(folder))
    assert reason(FolderStore(folder), str(folder / "pipe.jpg")) == "refused"


def test_gone_changed_and_too_large_are_the_images_fault(folder: Path) -> None:
    store = FolderStore(folder)
    assert reason(store, str(folder / "nothing.jpg")) == "gone"
    assert reason(store, str(folder / "a.jpg"), etag="other") == "changed"
    assert reason(store, str(folder / "sub dir" / "ü b.png"), max_bytes=5) == "too_large"


def test_an_unmounted_folder_is_the_worlds_fault(folder: Path) -> None:
    store = FolderStore(folder)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable, match="mounted"):
        store.fetch(str(folder / "a.jpg"), etag=None, max_bytes=10)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        list(FolderStore(tmp_path).list(str(tmp_path / "nowhere")))


def test_a_folder_that_refuses_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read any folder: permissions cannot be tried with real ones
    with pytest.raises(AccessDenied, match="permission"):
        list(FolderStore(folder).list(str(folder)))


def test_memory_is_a_peer() -> None:
    store = MemoryStore({"mem://b/1": b"one", "mem://b/2": b"two", "mem://c/1": b"x"})
    listed = list(store.list("mem://b/"))
    assert [info.uri for info in listed] == ["mem://b/1", "mem://b/2"]
    assert [info.uri for info in store.list("mem://b/", after="mem://b/1")] == ["mem://b/2"]
    assert store.fetch("mem://b/1", etag=listed[0].etag, max_bytes=10) == b"one"
    store.objects["mem://b/1"] = b"changed"
    assert reason(store, "mem://b/1", etag=listed[0].etag) == "changed"
    assert reason(store, "mem://b/9") == "gone"
    store.down = True
    with pytest.raises(StoreUnavailable):
        store.fetch("mem://b/1", etag=None, max_bytes=10)


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(BadSource, match="ftp"):
        open_store("ftp://host/x", load_settings())
