"""S3 Inventory from a folder: current objects only, under the names and versions that a listing gives them."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.errors import BadManifest, SourceNotFound
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from tests.helpers.inventories import FOLDER, Row, csv_part, inventory, parquet_part

ROWS: list[Row] = [
    ("src", "a b+c%2F/ü.jpg", "v2", True, False, 10, "e1"),
    ("src", "a b+c%2F/ü.jpg", "v1", False, False, 9, "e0"),
    ("src", "deleted.jpg", "v3", True, True, None, None),
    ("src", "folder.jpg/", "", True, False, 0, "e3"),
    ("src", "empty.jpg", "", True, False, 0, "e4"),
    ("src", "notes.md", "", True, False, 5, "e5"),
    ("src", "thumbs/x.jpg", "", True, False, 5, "e6"),
]
MAKERS = {"CSV": csv_part, "Parquet": parquet_part}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write an inventory as `aws s3 sync` does, and return its manifest."""
    for key, data in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder / next(iter(files))


def listed(manifest: Path, **filters: Any) -> tuple[list[tuple[str, str | None, int | None]], Listing]:
    listing = Listing([open_source(str(manifest), load_settings())], Filters(**filters))
    return [(image.uri, image.etag, image.size) for image in listing.images()], listing


@pytest.mark.parametrize("form", MAKERS)
def test_current_objects_are_listed_as_the_bucket_would_list_them(tmp_path: Path, form: str) -> None:
    make = MAKERS[form]
    manifest = put(tmp_path, inventory(form, [make(ROWS[:3]), make(ROWS[3:])]))
    found, listing = listed(manifest, exclude=("s3://src/thumbs/*",))
    assert found == [("s3://src/a b+c%2F/ü.jpg", '"e1"', 10), ("s3://src/empty.jpg", '"e4"', 0)]
    assert (listing.counts.n_skipped, listing.counts.n_left_out) == (2, 0)
    assert listing.names == [str(manifest)]


@pytest.mark.parametrize("layout", ["beside", "data", "moved"])
def test_parts_are_found_however_the_inventory_was_copied(tmp_path: Path, layout: str) -> None:
    manifest = put(tmp_path / "in", inventory("CSV", [csv_part(ROWS)]))
    copy = tmp_path / "copy"
    target = {"beside": copy, "data": copy / "data", "moved": copy}[layout]
    target.mkdir(parents=True)
    shutil.copy(tmp_path / "in" / FOLDER / "data/0.csv.gz", target)
    place = copy / "day" if layout == "moved" else copy
    place.mkdir(exist_ok=True)
    shutil.copy(manifest, place)
    if layout == "moved":
        (copy / "data").mkdir()
        shutil.move(copy / "0.csv.gz", copy / "data")
    assert len(listed(place / "manifest.json")[0]) == 3


def test_a_part_is_not_taken_from_elsewhere_nor_with_other_bytes(tmp_path: Path) -> None:
    files = inventory("CSV", [csv_part(ROWS)])
    manifest = put(tmp_path / "in", files)
    (tmp_path / "secret.csv.gz").write_bytes(csv_part(ROWS))
    altered = json.loads(manifest.read_bytes())
    for key in ("../../../../../secret.csv.gz", str(tmp_path / "secret.csv.gz"), "none.csv.gz"):
        altered["files"][0]["key"] = key
        manifest.write_text(json.dumps(altered))
        with pytest.raises(SourceNotFound, match="copy the folder data/"):
            listed(manifest)
    manifest = put(tmp_path / "in", files)
    (tmp_path / "in" / FOLDER / "data/0.csv.gz").write_bytes(csv_part(ROWS[:2]))
    with pytest.raises(BadManifest, match="the MD5"):
        listed(manifest)


def test_an_odd_row_is_left_out(tmp_path: Path) -> None:
    rows = gzip.decompress(csv_part(ROWS[:1])).decode()
    odd = '"src","too","few"\n"src","%FF.jpg","v","true","false","1","e"\n"","k","","true","false","","e"\n'
    manifest = put(tmp_path, inventory("CSV", [gzip.compress((odd + rows).encode())]))
    found, listing = listed(manifest)
    assert [uri for uri, _, _ in found] == ["s3://src/a b+c%2F/ü.jpg"]
    assert [str(each).rpartition(", ")[2] for each in listing.counts.left_out] == [
        "row 1: 3 fields where the schema has 7",
        "row 2: the key is not UTF-8",
        "row 3: no bucket or no key",
    ]


def test_keys_of_parquet_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    rows = [("src", key, "v", True, False, 1, "e") for key in (5, 6)]
    found, listing = listed(put(tmp_path, inventory("Parquet", [parquet_part(rows), parquet_part(ROWS[:1])])))  # type: ignore[arg-type]
    assert len(found) == 1
    assert "bucket or key is no text" in str(listing.counts.left_out[0])


def test_an_inventory_without_optional_columns_is_listed(tmp_path: Path) -> None:
    files = inventory("CSV", [b'"src","a.jpg"\n"src","b.jpg"\n'])
    text = (
        next(iter(files.values()))
        .decode()
        .replace(", ".join(("Bucket", "Key", "VersionId", "IsLatest")), "Bucket, Key")
    )
    text = text.replace(", IsDeleteMarker, Size, ETag", "").replace("0.csv.gz", "0.csv")
    files = {key.replace("0.csv.gz", "0.csv"): data for key, data in files.items()}
    files[next(iter(files))] = text.encode()
    assert listed(put(tmp_path, files))[0] == [("s3://src/a.jpg", None, None), ("s3://src/b.jpg", None, None)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "lacks `fileFormat`"),
        (b"[1]", "lacks `fileFormat`"),
        (b"{", "no manifest.json of S3 Inventory"),
        (b"\xff", "no manifest.json of S3 Inventory"),
        (b'{"fileFormat": "ORC", "files": []}', "ORC cannot be read: configure"),
        (b'{"fileFormat": "TSV", "files": []}', "not known"),
        (b'{"fileFormat": "CSV", "fileSchema": "Key", "files": []}', "lacks Bucket and Key"),
        (b'{"fileFormat": "Parquet", "files": [{}]}', "has no key"),
        (b'{"fileFormat": "Parquet", "files": [{"key": "k", "MD5checksum": 5}]}', "MD5checksum is no text"),
    ],
)
def test_what_is_no_inventory_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BadManifest, match=words):
        listed(tmp_path / "manifest.json")


@pytest.mark.parametrize("data", [b"no gzip", csv_part(ROWS)[:-9]])
def test_a_damaged_part_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadManifest, match=r"part inv/src/daily/data/0\.csv\.gz"):
        listed(put(tmp_path, inventory("CSV", [data])))
