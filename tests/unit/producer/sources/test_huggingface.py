"""Datasets on disk: each embedded image is found by its place in the Arrow file."""

import json
import struct
from pathlib import Path

import pyarrow as pa
import pytest

from scanfleet.config.settings import load_settings
from scanfleet.errors import BadSource, ImageError, SourceNotFound
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.storage.open import open_store
from tests.helpers.datasets import IMAGE, save


def listing_of(folder: Path) -> Listing:
    return Listing([open_source(str(folder), load_settings())], Filters())


def test_embedded_images_are_read_with_their_columns(tmp_path: Path) -> None:
    files = [bytes([number]) * (5 + 300 * number) for number in range(8)]
    path = save(tmp_path / "d", [{"bytes": data, "path": "x.jpg"} for data in files])
    images = list(listing_of(tmp_path / "d").images())
    assert [image.uri for image in images] == [f"{path}#image/{number}" for number in range(8)]
    assert [image.meta for image in images[:2]] == [
        {"label": "none", "note": "note 0"},
        {"label": "overlay", "note": "note 1"},
    ]
    store = open_store(images[0].uri, load_settings(), root=images[0].root)
    for image, data in zip(images, files, strict=True):
        assert store.fetch(image.uri, etag=image.etag, max_bytes=5000).data == data
        assert (image.size, image.root) == (len(data), str(tmp_path / "d"))
    with pytest.raises(ImageError, match="unsupported"):
        store.fetch(images[0].uri, etag=None, max_bytes=5000)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ImageError, match="changed"):
        store.fetch(images[0].uri, etag=images[0].etag, max_bytes=5000)


def test_all_splits_count_and_paths_stand_for_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    save(tmp_path / "d/train", [{"bytes": b"t", "path": None}, {"bytes": None, "path": str(tmp_path / "a.jpg")}, None])
    save(tmp_path / "d/test", [{"bytes": b"", "path": None}, {"bytes": None, "path": "b.jpg"}])
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    listing = listing_of(tmp_path / "d")
    images = list(listing.images())
    name = "data-00000-of-00001.arrow#image"
    assert [image.uri for image in images] == [
        f"{tmp_path}/d/train/{name}/0",
        f"{tmp_path}/a.jpg",
        f"{tmp_path}/d/test/{name}/0",
    ]
    assert images[1].etag is not None
    assert [str(each).rpartition("#")[2] for each in listing.counts.left_out] == [
        "image/2: an empty cell",
        "image/1: no bytes, and the path 'b.jpg' is not absolute",
    ]
    chosen = Listing(listing.sources, Filters(include=("train/*",)))
    assert [image.uri for image in chosen.images()] == [f"{tmp_path}/d/train/{name}/0"]


def test_large_offsets_and_slices_are_places_too(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": bytes([65 + number]) * 9, "path": None} for number in range(6)], kind)
    path = save(tmp_path / "d", [])
    table = pa.table({"image": pa.chunked_array([cells.slice(2, 3), cells.slice(0, 1)])})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    images = list(listing_of(tmp_path / "d").images())
    store = open_store(images[0].uri, load_settings(), root=images[0].root)
    read = [store.fetch(image.uri, etag=image.etag, max_bytes=99).data[:1] for image in images]
    assert read == [b"C", b"D", b"E", b"A"]


def test_columns_that_cannot_be_kept_shut_out_their_row_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "d", [])
    columns = {
        "image": pa.array([{"bytes": b"t", "path": None}] * 3, IMAGE),
        "note": ["a\0b", "fine", "fine"],
        "at": pa.array([0, 1_234_567_891, 0], pa.timestamp("ns")),
    }
    write(path, pa.table(columns))
    listing = listing_of(tmp_path / "d")
    assert [image.uri.rpartition("/")[2] for image in listing.images()] == ["1", "2"]
    assert "image/0: contains a NUL character" in str(listing.counts.left_out[0])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            pa.table(
                {
                    "image": pa.array(
                        [{"bytes": None, "path": 5}], pa.struct([("bytes", pa.binary()), ("path", pa.int64())])
                    )
                }
            ),
            "the path '5' is not absolute",
        ),
        (pa.table([[{"bytes": b"t", "path": "a"}]] * 2, names=["image", "image"]), "two columns have the same name"),
        (
            pa.table(
                {
                    "image": pa.array(
                        [{"bytes": b"t", "path": "a"}],
                        pa.struct([("bytes", pa.binary_view()), ("path", pa.string())]),
                    )
                }
            ),
            "views",
        ),
    ],
)
def test_columns_of_other_types_are_left_out(tmp_path: Path, table: pa.Table, words: str) -> None:
    write(save(tmp_path / "d", []), table)
    listing = listing_of(tmp_path / "d")
    assert list(listing.images()) == []
    assert words in str(listing.counts.left_out[0])


def write(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("how", ["compressed", "cut", "no images", "no arrow"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, how: str) -> None:
    cells = [{"bytes": bytes(5000), "path": None}] * 9
    options = {"options": pa.ipc.IpcWriteOptions(compression="lz4")} if how == "compressed" else {}
    path = save(tmp_path / "d", cells, **options)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-30_000])
    if how == "no arrow":
        path.write_bytes(b"no arrow" * 100)
    if how == "no images":
        (tmp_path / "d/dataset_info.json").write_text("{}")
    listing = listing_of(tmp_path / "d")
    assert len(list(listing.images())) == (3 if how == "cut" else 0)
    (said,) = map(str, listing.counts.left_out)
    assert said.startswith(f"{path}: the rest is not read")


def test_places_outside_the_data_are_not_believed(tmp_path: Path) -> None:
    path = save(tmp_path / "d", [{"bytes": bytes([number]) * 333, "path": None} for number in range(3)])
    ends = struct.pack("<4i", 0, 333, 666, 999)
    whole = path.read_bytes()
    assert whole.count(ends) == 1
    path.write_bytes(whole.replace(ends, struct.pack("<4i", 0, 333, 666, 99_999)))
    listing = listing_of(tmp_path / "d")
    assert list(listing.images()) == []
    assert "the rest is not read" in str(listing.counts.left_out[0])


def test_names_do_not_lead_out_of_the_dataset(tmp_path: Path) -> None:
    save(tmp_path / "other", [{"bytes": b"t", "path": None}])
    save(tmp_path / "d", [{"bytes": b"t", "path": None}])
    state = tmp_path / "d/state.json"
    for name in ("../other/data-00000-of-00001.arrow", f"{tmp_path}/other/data-00000-of-00001.arrow", "..", 3):
        state.write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(BadSource, match="as save_to_disk writes it"):
            list(listing_of(tmp_path / "d").images())
    state.write_text(json.dumps({"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(BadSource, match="flatten_indices"):
        list(listing_of(tmp_path / "d").images())
    state.write_text("{")
    with pytest.raises(BadSource, match="not JSON"):
        list(listing_of(tmp_path / "d").images())
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": 5}))
    with pytest.raises(BadSource, match="as save_to_disk writes it"):
        list(listing_of(tmp_path / "d").images())
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["none"]}))
    with pytest.raises(SourceNotFound, match="none/state"):
        list(listing_of(tmp_path / "d").images())
