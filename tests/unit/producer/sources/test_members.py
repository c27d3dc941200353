"""Archives as sources, alone and in folders and buckets."""

from pathlib import Path

import pytest

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadSource, ScanfleetError, SourceNotFound
from scanfleet.producer.sources.base import Candidate, LeftOut
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listed import BucketSource
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.manifest_source import ManifestSource
from scanfleet.producer.sources.members import MembersSource, members_of
from scanfleet.producer.sources.named import NamedImages
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.memory import MemoryStore
from scanfleet.storage.open import open_store
from tests.helpers.shards import tar_of, zip_of

FILES = [("a.jpg", b"a"), ("sub/b.png", b"bb"), ("a.json", b"{}"), ("thumbs/t.jpg", b"t")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def listed(source: str, settings: Settings, **filters: object) -> tuple[list[str], Listing]:
    chosen = Filters(**filters)  # type: ignore[arg-type]
    listing = Listing([open_source(source, settings, members=chosen.members)], chosen)
    return [image.uri for image in listing.images()], listing


@pytest.mark.parametrize(("name", "make"), [("x.tar", tar_of), ("x.ZIP", zip_of)])
def test_the_images_of_an_archive_are_taken_and_can_be_read(
    tmp_path: Path, settings: Settings, name: str, make: object
) -> None:
    path = tmp_path / name
    path.write_bytes(make(FILES))  # type: ignore[operator]
    listing = Listing([open_source(str(path), settings)], Filters(exclude=("thumbs/*",)))
    images = list(listing.images())
    assert [(image.uri, image.root, image.size) for image in images] == [
        (f"{path}#a.jpg", str(tmp_path), 1),
        (f"{path}#sub/b.png", str(tmp_path), 2),
    ]
    assert listing.counts.n_skipped == 2
    assert listing.roots.keys() == {str(tmp_path)}
    store = open_store(images[1].uri, settings, root=images[1].root)
    assert store.fetch(images[1].uri, etag=images[1].etag, max_bytes=9).data == b"bb"
    (again,) = open_source(f"{path}#sub/b.png", settings).candidates(after=None, skip=lambda _: False)
    assert isinstance(again, Candidate)
    assert again.image.uri == images[1].uri


def test_archives_of_a_folder_count_as_folders_where_their_members_are_asked_for(
    tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/1.tar").write_bytes(tar_of(FILES))
    (tmp_path / "s/2.tar").write_bytes(tar_of(FILES))
    (tmp_path / "s/c.jpg").write_bytes(b"c")
    (tmp_path / "s/3.tar.gz").write_bytes(b"packed")
    (tmp_path / "s/4.tar").write_bytes(b"damaged" * 100)
    top = tmp_path / "s"
    plain, listing = listed(str(top), settings)
    assert plain == [f"{top}/c.jpg"]
    assert listing.counts.n_left_out == 0
    found, listing = listed(str(top), settings, members=True, exclude=("2.tar", "thumbs"))
    assert sorted(found) == [f"{top}/1.tar#a.jpg", f"{top}/1.tar#sub/b.png", f"{top}/c.jpg"]
    said = sorted(map(str, listing.counts.left_out))
    assert said[0].startswith(f"{top}/3.tar.gz: a compressed tar")
    assert said[1].startswith(f"{top}/4.tar: damaged")
    assert listed(str(top), settings, members=True, include=("1.tar/sub/*",))[0] == [f"{top}/1.tar#sub/b.png"]
    assert Filters(members=True).as_dict() != Filters().as_dict()


def test_a_listing_goes_on_in_the_midst_of_an_archive() -> None:
    store = MemoryStore(
        {f"s3://b/{number}.tar": tar_of([(f"{each}.jpg", b"x") for each in range(3)]) for number in range(4)}
    )
    source = MembersSource(BucketSource("s3://b/", store), lambda _: store)
    listing = Listing([source], Filters(members=True))
    images = list(listing.images())
    assert len(images) == 12
    assert list(listing.images(listing.cursor_at(images[4]))) == images[3:]  # its archive once more; the ledger has it


def test_an_archive_that_was_overwritten_or_removed_while_it_was_listed_is_left_out() -> None:
    store = MemoryStore({"s3://b/1.tar": tar_of(FILES)})
    for shard, word in ((NewImage(uri="s3://b/1.tar", etag="old"), "changed"), (NewImage(uri="s3://b/2.tar"), "gone")):
        (item,) = members_of(shard, lambda _: store, below="")
        assert isinstance(item, LeftOut)
        assert str(item).startswith(f"{shard.uri}: {word}: ")


@pytest.mark.parametrize("name", ["x.tar.gz", "X.TGZ", "x.tar.zst"])
def test_a_compressed_tar_is_refused_by_name_with_what_to_do(tmp_path: Path, settings: Settings, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    for source in (str(tmp_path / name), f"s3://b/{name}"):
        with pytest.raises(BadSource, match=r"unpack it \(gunzip"):
            open_source(source, settings)


def test_folders_may_have_any_name(tmp_path: Path, settings: Settings) -> None:
    for name in ("x.tar", "y.tar.gz"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"a")
        assert listed(str(tmp_path / name), settings)[0] == [f"{tmp_path}/{name}/a.jpg"]
    with pytest.raises(SourceNotFound):
        open_source(str(tmp_path / "none.tar#a.jpg"), settings)


def test_a_manifest_may_name_members_and_pins_their_archive(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of([*FILES, ("../../up.jpg", b"up")]))
    (tmp_path / "y.tar#1.jpg").write_bytes(b"plain")
    lines = ["x.tar#sub/b.png", f"{tmp_path}/x.tar#a.jpg", "x.tar#../../up.jpg", "y.tar#1.jpg", "none.tar#a.jpg"]
    (tmp_path / "m.txt").write_text("\n".join([*lines, "s3://b/x.tar#a.jpg", "../x.tar#a.jpg"]))
    items = list(ManifestSource(tmp_path / "m.txt").candidates(after=None, skip=lambda _: False))
    *found, left_out = items
    assert "absolute path" in str(left_out)
    images = [item.image for item in found if isinstance(item, Candidate)]
    tops = [f"{tmp_path}/{name}" for name in ("x.tar#sub/b.png", "x.tar#a.jpg", "x.tar#../../up.jpg", "y.tar#1.jpg")]
    assert [image.uri for image in images] == [*tops, f"{tmp_path}/none.tar#a.jpg", "s3://b/x.tar#a.jpg"]
    read = [
        open_store(each.uri, settings, root=each.root).fetch(each.uri, etag=each.etag, max_bytes=9)
        for each in images[:4]
    ]
    assert [each.data for each in read] == [b"bb", b"a", b"up", b"plain"]
    assert [image.etag is None for image in images] == [False] * 4 + [True] * 2
    (tmp_path / "x.tar").write_bytes(tar_of(FILES) + bytes(512))
    with pytest.raises(ScanfleetError, match="changed"):
        open_store(images[0].uri, settings, root=images[0].root).fetch(images[0].uri, etag=images[0].etag, max_bytes=9)


def test_archives_that_a_manifest_names_are_opened_where_members_are_asked_for(
    tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of(FILES))
    (tmp_path / "m.csv").write_text("uri,truth\nx.tar,none\nnone.zip,none\nc.jpg,overlay\n")
    assert len(listed(str(tmp_path / "m.csv"), settings)[0]) == 3
    listing = Listing([open_source(str(tmp_path / "m.csv"), settings, members=True)], Filters(members=True))
    images = list(listing.images())
    names = ["x.tar#a.jpg", "x.tar#sub/b.png", "x.tar#thumbs/t.jpg", "c.jpg"]
    assert [image.uri for image in images] == [f"{tmp_path}/{name}" for name in names]
    assert [image.meta for image in images] == [{"truth": "none"}] * 3 + [{"truth": "overlay"}]
    assert [str(each).split(": ")[:2] for each in listing.counts.left_out] == [[f"{tmp_path}/none.zip", "gone"]]


def test_named_archives_are_read_too(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of(FILES))
    named = NamedImages([str(tmp_path / "x.zip"), f"{tmp_path}/x.zip#a.json"], settings)
    assert [image.uri.rpartition("#")[2] for image in named] == ["a.jpg", "sub/b.png", "thumbs/t.jpg", "a.json"]
    assert named.errors == []
