"""Stores: listed objects can be read, paths that lead out are refused, and transient errors are not the image's."""

import io
import os
import socket
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody

from scanfleet.config.settings import load_settings
from scanfleet.errors import AccessDenied, BadSource, ImageError, Retryable, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import CHUNK_BYTES, ObjectStore
from scanfleet.storage.file_uri import path_to_uri, uri_to_path
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.memory import MemoryStore
from scanfleet.storage.open import open_store
from scanfleet.storage.s3.store import S3Store


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
    assert {store.fetch(info.uri, etag=info.etag, max_bytes=100).data for info in listed} == {b"a", b"b" * 10}
    assert sorted(info.size or 0 for info in listed) == [1, 10]


def test_a_name_that_is_not_utf8_survives(folder: Path) -> None:
    raw = os.fsencode(folder) + b"/\xff\xfe.jpg"
    with open(raw, "wb") as file:
        file.write(b"raw")
    uri = path_to_uri(raw)
    uri.encode()  # every database can hold it
    assert uri_to_path(uri) == raw
    assert uri in uris(FolderStore(folder), str(folder))
    assert FolderStore(folder).fetch(uri, etag=None, max_bytes=100).data == b"raw"


def test_links_out_of_the_folder_are_listed_and_never_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(secret)
    (folder / "inside.jpg").symlink_to(folder / "a.jpg")
    store = FolderStore(folder)
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    links = {str(folder / f"{name}.jpg") for name in ("link", "inside", "dangling")}
    assert links <= set(uris(store, str(folder)))  # each ends as a verdict or a failure: none is lost without a word
    assert reason(store, str(folder / "dangling.jpg")) == "gone"
    assert reason(store, str(folder / "link.jpg")) == "refused"
    assert reason(store, str(folder / ".." / "secret.jpg")) == "refused"
    assert reason(store, str(secret)) == "refused"


def test_a_file_that_became_a_link_after_the_listing_is_refused(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(secret)
    assert reason(FolderStore(folder), str(folder / "a.jpg")) == "refused"


@pytest.mark.parametrize("swapped", ["a.jpg", "sub dir"])
def test_a_link_put_in_place_between_check_and_opening_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("a.jpg", "ü b.png"):
        (secrets / name).write_bytes(b"secret")
    wanted = folder / "a.jpg" if swapped == "a.jpg" else folder / "sub dir" / "ü b.png"
    real = os.path.realpath

    def swap(path: bytes) -> bytes:
        answer = real(path)
        if not (tmp_path / "moved").exists():
            (folder / swapped).rename(tmp_path / "moved")
            (folder / swapped).symlink_to(secrets / "a.jpg" if swapped == "a.jpg" else secrets)
        return answer

    store = FolderStore(folder)
    monkeypatch.setattr(os.path, "realpath", swap)
    assert reason(store, str(wanted)) == "refused"


def test_a_linked_folder_is_not_listed_and_read_only_if_it_lies_inside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.jpg").write_bytes(b"out")
    (folder / "out").symlink_to(tmp_path / "out")
    (folder / "in").symlink_to(folder / "sub dir")
    store = FolderStore(folder)
    listed = {str(Path(uri).relative_to(folder)) for uri in uris(store, str(folder))}
    assert listed == {"a.jpg", "sub dir/ü b.png", "out", "in"}  # the links themselves, which are no images by name
    assert reason(store, str(folder / "out" / "x.jpg")) == "refused"
    assert store.fetch(str(folder / "in" / "ü b.png"), etag=None, max_bytes=100).data == b"b" * 10


def test_what_is_no_regular_file_is_refused_and_never_waited_for(folder: Path) -> None:
    store = FolderStore(folder)
    with socket.socket(socket.AF_UNIX) as server:
        monkey = folder / "socket.jpg"
        server.bind(os.path.relpath(monkey))  # the path of a socket is at most 100 bytes long
        assert reason(store, str(monkey)) == "refused"
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    for name in ("sub dir", "loop.jpg", "a.jpg/x.jpg", "n" * 300, "a\0.jpg"):
        assert reason(store, str(folder / name)) == "refused", name
    assert {Path(uri).name for uri in uris(store, str(folder))} == {"a.jpg", "ü b.png", "loop.jpg", "socket.jpg"}
    assert reason(FolderStore(Path("/dev")), "/dev/zero") == "refused"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux")
def test_files_that_the_kernel_makes_up_give_nothing() -> None:
    process = Path("/proc/self").resolve()
    assert FolderStore(process).fetch(str(process / "environ"), etag=None, max_bytes=1000).data == b""


def test_odd_names_are_listed_and_read(folder: Path) -> None:
    names = ["new\nline.jpg", "tab\t.jpg", "-rf.jpg", "$(id).jpg", "a?b#c%41.jpg", "..jpg", "'\".jpg"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    store = FolderStore(folder)
    listed = {Path(info.uri).name: info for info in store.list(str(folder))}
    assert set(names) < set(listed)
    for name in names:
        assert store.fetch(listed[name].uri, etag=listed[name].etag, max_bytes=100).data == name.encode()


def test_neighbours_of_a_nested_folder_are_listed_in_order(folder: Path) -> None:
    names = ["b/1.jpg", "b/c/2.jpg", "b/c/d/3.jpg", "b/e/4.jpg", "f/5.jpg", "f/g/6.jpg", "sub dir/ü b.png"]
    for name in names[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    listed = [info.uri.removeprefix(f"{folder}/") for info in FolderStore(folder).list(str(folder))]
    assert listed == ["a.jpg", *names]


def test_links_in_a_folder_that_is_not_wanted_are_names_and_lead_nowhere(folder: Path) -> None:
    (folder / "old" / "deep").mkdir(parents=True)
    (folder / "old" / "deep" / "x.jpg").write_bytes(b"x")
    (folder / "old" / "loop").symlink_to(folder)
    listed = list(FolderStore(folder, skip=lambda path: path.endswith("/old")).list(str(folder)))
    names = {info.uri.removeprefix(f"{folder}/"): info.size for info in listed}
    assert names == {"a.jpg": 1, "sub dir/ü b.png": 10, "old/loop": None, "old/deep/x.jpg": None}


def test_folders_nested_deeper_than_python_calls_are_listed(folder: Path) -> None:
    deep = folder
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        deep = deep / "d"
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deep.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        assert str(deep / "deep.jpg") in uris(FolderStore(folder), str(folder))
    finally:
        subprocess.run(["rm", "-rf", folder / "d"], check=True)  # shutil.rmtree would recurse


def test_pipes_are_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    assert str(folder / "pipe.jpg") in uris(FolderStore(folder), str(folder))
    assert reason(FolderStore(folder), str(folder / "pipe.jpg")) == "refused"
    assert reason(FolderStore(folder), str(folder / "pipe.jpg" / "a.jpg")) == "refused"  # nor is one on the way opened


def test_gone_changed_and_too_large_are_image_errors(folder: Path) -> None:
    store = FolderStore(folder)
    assert reason(store, str(folder / "nothing.jpg")) == "gone"
    assert reason(store, str(folder / "a.jpg"), etag="other") == "changed"
    assert reason(store, str(folder / "sub dir" / "ü b.png"), max_bytes=5) == "too_large"


def test_an_unmounted_folder_is_a_transient_error(folder: Path) -> None:
    store = FolderStore(folder)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable, match="mounted"):
        store.fetch(str(folder / "a.jpg"), etag=None, max_bytes=10)


@pytest.mark.parametrize("moved", ["disk", "disk/archive"])
def test_a_folder_that_was_moved_and_linked_is_a_transient_error(tmp_path: Path, moved: str) -> None:
    folder = tmp_path / "disk" / "archive"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a")
    store = FolderStore(folder)
    place = tmp_path / moved
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="restart the worker"):
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
    assert store.fetch("mem://b/1", etag=listed[0].etag, max_bytes=10).data == b"one"
    store.objects["mem://b/1"] = b"changed"
    assert reason(store, "mem://b/1", etag=listed[0].etag) == "changed"
    assert reason(store, "mem://b/9") == "gone"
    store.down = True
    with pytest.raises(StoreUnavailable):
        store.fetch("mem://b/1", etag=None, max_bytes=10)


class Answering:
    """A client of S3 with one answer to every read: bytes that are called `length` long, or an error."""

    def __init__(self, body: bytes = b"", *, length: int = 0, etag: str = '"1"', error: str = "") -> None:
        self._body, self._length, self._etag, self._error = body, length, etag, error

    def get_object(self, **_: object) -> dict[str, object]:
        if self._error:
            raise ClientError({"Error": {"Code": self._error, "Message": "no"}}, "GetObject")
        # As behind a proxy that sends chunks beside a length: nothing below counts what arrives.
        body = StreamingBody(io.BytesIO(self._body), self._length)
        return {"Body": body, "ContentLength": self._length, "ETag": self._etag}


@pytest.mark.parametrize("length", [3, 5])
def test_a_body_of_another_length_than_was_announced_is_never_the_image(length: int) -> None:
    with pytest.raises(StoreUnavailable):
        S3Store(Answering(b"half", length=length)).fetch("s3://b/x.jpg", etag=None, max_bytes=100)


def test_a_body_of_several_reads_is_put_together() -> None:
    body = os.urandom(2 * CHUNK_BYTES + 1)
    assert S3Store(Answering(body, length=len(body))).fetch("s3://b/x.jpg", etag=None, max_bytes=len(body)).data == body
    with pytest.raises(ImageError, match="too_large"):
        S3Store(Answering(body, length=1)).fetch("s3://b/x.jpg", etag=None, max_bytes=len(body) - 1)


def test_servers_write_the_same_version_in_several_ways() -> None:
    ways = ("a1", '"a1"', 'W/"a1"')
    for answered in ways:
        store = S3Store(Answering(b"half", length=4, etag=answered))
        for listed in ways:
            store.fetch("s3://b/x.jpg", etag=listed, max_bytes=100)
        assert reason(store, "s3://b/x.jpg", etag='"a2"') == "changed"


@pytest.mark.parametrize("code", ["AccessDenied", "403", "ExpiredToken", "SlowDown", "InternalError"])
def test_a_refused_read_is_not_an_error_of_the_image_by_itself(code: str) -> None:
    """Credentials expire for a whole archive at once."""
    with pytest.raises(Retryable):
        S3Store(Answering(error=code)).fetch("s3://b/x.jpg", etag=None, max_bytes=100)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("NoSuchKey", "gone"),
        ("404", "gone"),
        ("NoSuchVersion", "gone"),
        ("412", "changed"),
        ("PreconditionFailed", "changed"),
        ("InvalidObjectState", "archived"),
    ],
)
def test_what_only_one_object_can_answer_is_an_error_of_the_image(code: str, why: str) -> None:
    assert reason(S3Store(Answering(error=code)), "s3://b/x.jpg") == why


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(BadSource, match="ftp"):
        open_store("ftp://host/x", load_settings())


def test_a_bucket_without_credentials_says_what_to_set(tmp_path: Path) -> None:
    store = S3Store.connect(load_settings(data_dir=tmp_path, s3_endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(AccessDenied, match="s3://b: no credentials found: set AWS_PROFILE"):
        next(store.list("s3://b/"))
    with pytest.raises(StoreUnavailable, match="no credentials found"):
        store.fetch("s3://b/x.jpg", etag=None, max_bytes=1)
