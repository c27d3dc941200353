"""Members of tar and zip files: read by their place, whatever the archive says of itself."""

import io
import os
import random
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from scanfleet.errors import BadSource, ImageError, StoreUnavailable
from scanfleet.storage.base import FetchedObject, Span
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.memory import MemoryStore
from scanfleet.storage.shards import index, store
from scanfleet.storage.shards.index import Member, Unread, open_shard
from scanfleet.storage.shards.member_uri import Place, member_uri, split_member, split_version, version_of
from scanfleet.storage.shards.store import ShardStore
from tests.helpers.shards import tar_of, zip_of

FILES = [
    ("a.jpg", b"a" * 700),
    ("sub/ü b#c.png", bytes(range(256)) * 9),
    ("empty.jpg", b""),
    ("n" * 300 + "/long.jpg", b"long"),
    ("./dot.jpg", b"dot"),
]
MAKERS: dict[str, Callable[[], bytes]] = {
    "pax.tar": lambda: tar_of(FILES),
    "gnu.TAR": lambda: tar_of(FILES, form=tarfile.GNU_FORMAT),
    "deflated.zip": lambda: zip_of(FILES),
    "stored.zip": lambda: zip_of(FILES, method=zipfile.ZIP_STORED),
}


class Watched(MemoryStore):
    """Counts what is asked for."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.n_bytes = 0
        self.n_requests = 0

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        self.n_requests += 1
        found = super().fetch(uri, etag=etag, max_bytes=max_bytes, span=span)
        self.n_bytes += len(found.data)
        return found


def listed(inner: MemoryStore | FolderStore, uri: str) -> tuple[dict[str, str], list[Unread]]:
    """Return the version of each member by its uri, and what is not read."""
    found = open_shard(inner, uri, etag=None)
    members = list(found.members)
    taken = [each for each in members if isinstance(each, Member)]
    versions = {member_uri(uri, each.name): version_of(found.etag, each.place) for each in taken}
    return versions, [each for each in members if isinstance(each, Unread)]


def refusal(shards: ShardStore, uri: str, etag: str | None = None, max_bytes: int = 10_000) -> str:
    with pytest.raises(ImageError) as caught:
        shards.fetch(uri, etag=etag, max_bytes=max_bytes)
    assert caught.value.stage == "fetch"
    return caught.value.reason


@pytest.mark.parametrize("name", MAKERS)
def test_each_member_is_read_as_it_is_with_and_without_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(MAKERS[name]())
    versions, unread = listed(FolderStore(tmp_path), str(path))
    assert unread == []
    assert list(versions) == [f"{path}#{member}" for member, _ in FILES]
    shards = ShardStore(FolderStore(tmp_path))
    for member, data in FILES:
        uri = f"{path}#{member}"
        assert shards.fetch(uri, etag=versions[uri], max_bytes=3000) == (data, versions[uri], len(data))
        looked_up = shards.fetch(uri, etag=None, max_bytes=3000)
        assert (looked_up.data, looked_up.etag) == (data, versions[uri])
        pin = version_of(FolderStore(tmp_path).fetch(str(path), etag=None, max_bytes=99_999).etag)
        assert shards.fetch(uri, etag=pin, max_bytes=3000).etag == versions[uri]


@pytest.mark.parametrize("name", MAKERS)
def test_an_overwritten_shard_has_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(MAKERS[name]())
    versions, _ = listed(FolderStore(tmp_path), str(path))
    shards = ShardStore(FolderStore(tmp_path))
    uri = f"{path}#a.jpg"
    assert shards.fetch(uri, etag=None, max_bytes=1000).data == b"a" * 700
    path.write_bytes((tar_of if "zip" not in name else zip_of)([("b.jpg", b"b"), ("a.jpg", b"new bytes")]))
    assert refusal(shards, uri, versions[uri]) == "changed"
    assert refusal(shards, uri, f"{split_version(versions[uri])[0]}@") == "changed"  # type: ignore[index]
    assert shards.fetch(uri, etag=None, max_bytes=1000).data == b"new bytes"  # no version was asked for
    path.unlink()
    assert refusal(shards, uri, versions[uri]) == "gone"
    with pytest.raises(StoreUnavailable, match="not the one that was listed"):
        shards.confirm_missing(uri, etag=versions[uri], root_id="another")


def test_the_rest_of_a_shard_is_not_read() -> None:
    files = [(f"{number:03}.jpg", bytes([number]) * 50_000) for number in range(200)]
    for uri, data in {"s3://b/x.tar": tar_of(files), "s3://b/x.zip": zip_of(files, method=0)}.items():
        inner = Watched({uri: data})
        versions, _ = listed(inner, uri)
        assert inner.n_requests <= 12 + len(data) // index.MOST_TAR_HEADER
        shards = ShardStore(inner)
        inner.n_bytes = inner.n_requests = 0
        member = f"{uri}#150.jpg"
        assert shards.fetch(member, etag=versions[member], max_bytes=60_000).data == files[150][1]
        assert (inner.n_requests, inner.n_bytes < 52_000) == (1, True)


def test_large_members_are_passed_over_when_a_tar_is_listed() -> None:
    data = tar_of([("a.bin", bytes(8 << 20)), ("b.bin", bytes(8 << 20)), ("c.jpg", b"c")])
    inner = Watched({"s3://b/x.tar": data})
    assert len(listed(inner, "s3://b/x.tar")[0]) == 3
    assert inner.n_bytes < 5 << 20


def test_an_index_is_read_once_and_only_as_far_as_it_is_asked_for() -> None:
    files = [(f"{number:03}.jpg", bytes([number % 256]) * 30_000) for number in range(300)]
    inner = Watched({"s3://b/x.tar": tar_of(files)})
    shards = ShardStore(inner)
    shards.fetch("s3://b/x.tar#003.jpg", etag=None, max_bytes=60_000)
    assert inner.n_requests == 2
    for name, data in files:
        assert shards.fetch(f"s3://b/x.tar#{name}", etag=None, max_bytes=60_000).data == data
    assert inner.n_requests < 300 + 20
    assert refusal(shards, "s3://b/x.tar#none.jpg") == "no_member"


def test_an_index_that_takes_long_is_read_on_by_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Watched({"s3://b/x.tar": tar_of([(f"{number}.jpg", b"x") for number in range(5)])})
    shards = ShardStore(inner)
    monkeypatch.setattr(store, "INDEX_SECONDS", -1.0)
    for _ in range(4):
        with pytest.raises(StoreUnavailable, match="still being listed"):
            shards.fetch("s3://b/x.tar#4.jpg", etag=None, max_bytes=10)
    assert shards.fetch("s3://b/x.tar#4.jpg", etag=None, max_bytes=10).data == b"x"


def test_an_index_that_an_unavailable_store_broke_off_begins_anew() -> None:
    files = [(f"{number}.bin", bytes(2 << 20)) for number in range(4)]
    inner = Watched({"s3://b/x.tar": tar_of(files)})
    shards = ShardStore(inner)
    shards.fetch("s3://b/x.tar#0.bin", etag=None, max_bytes=3 << 20)
    inner.down = True
    with pytest.raises(StoreUnavailable):
        shards.fetch("s3://b/x.tar#3.bin", etag=None, max_bytes=3 << 20)
    inner.down = False
    assert len(shards.fetch("s3://b/x.tar#3.bin", etag=None, max_bytes=3 << 20).data) == 2 << 20


def test_indexes_of_many_shards_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_KEPT", 3)
    data = tar_of([("0.jpg", b"x"), ("1.jpg", b"y")])
    inner = Watched({f"s3://b/{number}.tar": data for number in range(9)})
    shards = ShardStore(inner)
    for number in range(9):
        assert shards.fetch(f"s3://b/{number}.tar#1.jpg", etag=None, max_bytes=10).data == b"y"
    before = inner.n_requests
    shards.fetch("s3://b/8.tar#0.jpg", etag=None, max_bytes=10)
    assert inner.n_requests == before + 1
    shards.fetch("s3://b/0.tar#0.jpg", etag=None, max_bytes=10)
    assert inner.n_requests == before + 3


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    names = [
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "a.jpg",
        "a.jpg",
        "x.tar#y.jpg",
        "s3://b/k.jpg",
        "%2e%2e/q.jpg",
    ]
    files = [(name, f"{number}".encode()) for number, name in enumerate(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns of duplicates
        made = {"in/x.tar": tar_of(files), "in/x.zip": zip_of(files)}
    for name, data in made.items():
        path = tmp_path / name
        path.write_bytes(data)
        found = open_shard(FolderStore(path.parent), str(path), etag=None)
        members = [member for member in found.members if isinstance(member, Member)]
        assert [member.name for member in members] == names  # both of one name: none hides another
        shards = ShardStore(FolderStore(path.parent))
        for number, member in enumerate(members):
            uri = member_uri(str(path), member.name)
            assert split_member(uri) == (str(path), member.name)
            pin = version_of(found.etag, member.place)
            assert shards.fetch(uri, etag=pin, max_bytes=10).data == str(number).encode()
        with pytest.raises(BadSource, match="cannot be written"):
            shards.put(f"{path}#a.jpg", b"x")


def test_names_that_are_no_text_and_links_are_told() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("ü.jpg"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.jpg")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    versions, unread = listed(MemoryStore({"s3://b/x.tar": out.getvalue()}), "s3://b/x.tar")
    assert list(versions) == ["s3://b/x.tar#%FC.jpg"]
    assert [(each.name, each.why) for each in unread] == [
        ("link2.jpg", "a link to another member"),
        ("link1.jpg", "a link to another member"),
    ]


def test_a_bomb_is_inflated_no_further_than_the_limit() -> None:
    data = zip_of([("bomb.png", bytes(200_000_000))])
    shards = ShardStore(inner := Watched({"s3://b/x.zip": data}))
    versions, _ = listed(inner, "s3://b/x.zip")
    tracemalloc.start()
    assert refusal(shards, "s3://b/x.zip#bomb.png", versions["s3://b/x.zip#bomb.png"], 1_000_000) == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    large = tar_of([("large.png", bytes(2_000_000))])
    inner.objects["s3://b/x.tar"] = large
    inner.n_bytes = 0
    assert refusal(shards, "s3://b/x.tar#large.png", None, 1_000_000) == "too_large"
    assert inner.n_bytes < 1_100_000


@pytest.mark.parametrize("name", MAKERS)
def test_whoever_asks_for_no_bytes_asks_the_store(name: str) -> None:
    uri = f"s3://b/{name}"
    inner = MemoryStore({uri: MAKERS[name]()})
    versions, _ = listed(inner, uri)
    shards = ShardStore(inner)
    member = f"{uri}#a.jpg"
    assert refusal(shards, member, versions[member], max_bytes=0) == "too_large"
    inner.down = True
    with pytest.raises(StoreUnavailable):
        shards.fetch(member, etag=versions[member], max_bytes=0)


def damaged(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


def test_a_damaged_or_cut_tar_lists_what_is_before_and_says_so() -> None:
    whole = tar_of([(f"{number}.jpg", b"x" * 600) for number in range(4)])  # 1,536 bytes each
    for data, n, words in (
        (damaged(whole, 2 * 1536, b"\xff" * 512), 2, "damaged at byte 3072"),
        (whole[: 2 * 1536 + 700], 3, "damaged"),
        (whole[: 2 * 1536 + 100], 2, "damaged"),
        (whole[: 2 * 1536], 2, "perhaps it is cut"),
        (b"\x1f\x8b" + bytes(600), 0, "packed with gzip"),
        (b"this is no archive at all", 0, "damaged"),
        (b"", 0, "damaged"),
    ):
        inner = MemoryStore({"s3://b/x.tar": data})
        versions, (unread,) = listed(inner, "s3://b/x.tar")
        assert len(versions) == n
        assert unread.name is None
        assert words in unread.why
        assert refusal(ShardStore(inner), "s3://b/x.tar#9.jpg") == "corrupt"


def test_a_header_that_asks_for_much_memory_is_refused() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8_000_000_000
    head = info.tobuf(tarfile.GNU_FORMAT)
    inner = MemoryStore({"s3://b/x.tar": head + bytes(4 << 20)})
    versions, (unread,) = listed(inner, "s3://b/x.tar")
    assert versions == {}
    assert "damaged" in unread.why


def test_a_map_of_holes_takes_no_more_memory_than_a_header() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        data = b"5000000\n" + b"1\n" * 2_000_000
        info = tarfile.TarInfo("a.jpg")
        info.size = len(data)
        info.pax_headers = {f"GNU.sparse.{name}": "1" for name in ("major", "minor", "realsize")} | {
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "a.jpg",
        }
        tar.addfile(info, io.BytesIO(data))
    inner = Watched({"s3://b/x.tar": out.getvalue()})
    versions, (unread,) = listed(inner, "s3://b/x.tar")
    assert versions == {}
    assert "damaged: a header of" in unread.why
    assert inner.n_bytes < 3 << 20


def test_a_chain_of_headers_does_not_end_the_process() -> None:
    longname = tarfile.TarInfo("././@LongLink")
    longname.type, longname.size = tarfile.GNUTYPE_LONGNAME, 1
    link = longname.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    _, (unread,) = listed(MemoryStore({"s3://b/x.tar": link * 3000 + bytes(1024)}), "s3://b/x.tar")
    assert "damaged" in unread.why


def test_members_that_end_before_they_begin_do_not_go_on_for_ever() -> None:
    info = tarfile.TarInfo("a.jpg")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 11 + b"\x00"  # base 256: -256
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
    versions, unread = listed(MemoryStore({"s3://b/x.tar": bytes(head) * 4 + bytes(1024)}), "s3://b/x.tar")
    assert len(versions) == 0
    assert len(unread) < 9
    assert "damaged" in unread[-1].why


def test_members_of_a_zip_that_cannot_be_read_are_named() -> None:
    data = zip_of([("a.jpg", b"a" * 100), ("b.jpg", b"b" * 100)], method=zipfile.ZIP_STORED)
    directory = data.index(b"PK\x01\x02")
    encrypted = damaged(data, directory + 8, b"\x01\x00")
    packed = damaged(data, directory + 10, struct.pack("<H", 93))
    for altered, words in ((encrypted, "encrypted"), (packed, "method 93")):
        versions, (unread,) = listed(MemoryStore({"s3://b/x.zip": altered}), "s3://b/x.zip")
        assert list(versions) == ["s3://b/x.zip#b.jpg"]
        assert unread.name == "a.jpg"
        assert words in unread.why


def test_bytes_that_are_not_those_of_the_archive_are_corrupt() -> None:
    data = zip_of([("a.jpg", b"a" * 100), ("b.jpg", os.urandom(100))])
    uri = "s3://b/x.zip"
    inner = MemoryStore({uri: data})
    versions, _ = listed(inner, uri)
    etag, place = split_version(versions[f"{uri}#b.jpg"]) or (None, None)
    assert place is not None
    shards = ShardStore(inner)
    for wrong in (
        Place(place.offset, place.size, zlib.crc32(b"x")),
        Place(place.offset + 1, place.size, place.crc),
        Place(place.offset, place.size - 1, place.crc),
        Place(len(data) - 3, 5, place.crc),
        Place(len(data) - 3, 5),
    ):
        assert refusal(shards, f"{uri}#b.jpg", version_of(etag, wrong)) == "corrupt"


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_archives_of_any_bytes_end_in_members_and_reasons(name: str) -> None:
    dice = random.Random(7)
    whole = (tar_of if name == "x.tar" else zip_of)([(f"{number}.jpg", dice.randbytes(40)) for number in range(6)])
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = bytes(data[: dice.randint(0, len(data))]) if dice.random() < 0.3 else bytes(data)
        inner = MemoryStore({f"s3://b/{name}": cut})
        versions, _ = listed(inner, f"s3://b/{name}")
        for uri, version in versions.items():
            try:
                ShardStore(inner).fetch(uri, etag=version, max_bytes=1000)
            except ImageError as error:
                assert error.reason in {"corrupt", "unsupported", "too_large"}  # noqa: PT017


def test_a_listed_file_with_such_a_name_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.tar#a.jpg").write_bytes(b"plain")
    inner = FolderStore(tmp_path)
    (info,) = inner.list(str(tmp_path))
    assert ShardStore(inner).fetch(info.uri, etag=info.etag, max_bytes=10).data == b"plain"
