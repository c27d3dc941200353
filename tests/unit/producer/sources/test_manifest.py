"""Manifests: their formats, every problem with its line, and memory that does not grow."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scanfleet.errors import BadManifest, SourceNotFound
from scanfleet.producer.sources.base import Candidate, LeftOut
from scanfleet.producer.sources.manifest import MAX_LINE_BYTES
from scanfleet.producer.sources.manifest_source import ManifestSource


def read(path: Path) -> list[Candidate]:
    """Return the candidates of a manifest in which nothing is odd."""
    items = list(ManifestSource(path).candidates(after=None, skip=lambda _: False))
    assert not [item for item in items if isinstance(item, LeftOut)]
    return [item for item in items if isinstance(item, Candidate)]


def read_tolerantly(path: Path) -> tuple[list[str], list[str]]:
    """Return the paths taken, and what is said of the entries left out."""
    items = list(ManifestSource(path).candidates(after=None, skip=lambda _: False))
    taken = [item.path for item in items if isinstance(item, Candidate)]
    return taken, [str(item) for item in items if isinstance(item, LeftOut)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.txt", "# three\n\na.jpg\nsub dir/ü.png\ns3://b/k.jpg\n"),
        ("m.csv", "uri\na.jpg\nsub dir/ü.png\ns3://b/k.jpg\n"),
        ("m.CSV", "uri;n\na.jpg;1\nsub dir/ü.png;2\ns3://b/k.jpg;3\n"),
        ("m.csv", "n\turi\n1\ta.jpg\n2\tsub dir/ü.png\n3\ts3://b/k.jpg\n"),
        ("m.csv", "n;o,uri\n;,a.jpg\n;,sub dir/ü.png\n;,s3://b/k.jpg\n"),
        ("m.tsv", "uri\na.jpg\nsub dir/ü.png\ns3://b/k.jpg\n"),
        ("m.jsonl", '{"uri": "a.jpg"}\n\n{"uri": "sub dir/ü.png"}\n{"uri": "s3://b/k.jpg"}'),
        ("m.ndjson", '{"uri": "a.jpg", "source-ref": "x"}\n\n{"uri": "sub dir/ü.png"}\n{"uri": "s3://b/k.jpg"}'),
        (
            "output.manifest",
            '{"source-ref": "a.jpg", "class": 0}\n{"source-ref": "sub dir/ü.png"}\n{"source-ref": "s3://b/k.jpg"}',
        ),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("pack", [None, gzip.compress])
def test_each_format_names_the_same_images(
    tmp_path: Path, name: str, content: str, mark: bytes, ending: str, pack: Callable[[bytes], bytes] | None
) -> None:
    data = mark + content.replace("\n", ending).encode()
    path = write(tmp_path, name if pack is None else f"{name}.gz", data if pack is None else pack(data))
    images = [item.image for item in read(path)]
    assert [image.uri for image in images] == [f"{tmp_path}/a.jpg", f"{tmp_path}/sub dir/ü.png", "s3://b/k.jpg"]
    assert [image.root for image in images] == [str(tmp_path), str(tmp_path), None]


def test_other_columns_travel_with_the_image(tmp_path: Path) -> None:
    table = write(tmp_path, "m.csv", 'truth,uri,note\noverlay,a.jpg,"two\nlines, one comma"\n')
    lines = write(tmp_path, "m.jsonl", '{"uri": "a.jpg", "truth": "overlay", "n": 3, "deep": {"x": null}}\n')
    assert read(table)[0].image.meta == {"truth": "overlay", "note": "two\nlines, one comma"}
    assert read(lines)[0].image.meta == {"truth": "overlay", "n": 3, "deep": {"x": None}}


def test_a_file_that_is_there_is_pinned_to_its_version(tmp_path: Path) -> None:
    path = write(tmp_path, "m.txt", "there.jpg\nnot-there.jpg\n")
    write(tmp_path, "there.jpg", b"12345")
    there, missing = (item.image for item in read(path))
    assert there.size == 5
    assert there.etag is not None
    assert (missing.size, missing.etag) == (None, None)  # listed all the same: its absence becomes a failure


def test_an_absolute_path_is_its_own_folder_s(tmp_path: Path) -> None:
    path = write(tmp_path, "m.txt", "/data/x/../y/a.jpg\nfile:///data/b%FF.jpg\n")
    plain, coded = (item.image for item in read(path))
    assert (plain.uri, plain.root) == ("/data/y/a.jpg", "/data/y")
    assert (coded.uri, coded.root) == ("file:///data/b%FF.jpg", "/data")


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("m.txt", "s3://bucket\n", 1, "names no object"),
        ("m.txt", b"\x89PNG\r\n\x1a\n\x00\x00", 1, "not UTF-8"),
        ("m.txt", b"a\x00b\n", 1, "NUL byte"),
        ("m.csv", "uri\na.jpg\n".encode("utf-16"), 1, "it is UTF-16: save the file as UTF-8"),
        ("m.txt", b"x" * (MAX_LINE_BYTES + 10), 1, "longer than"),
        ("m.txt", "# notes\n\nDear all, see the pictures.\na.jpg\n", 3, "'Dear all, see the pictures.' is neither"),
        ("m.txt", "ice and/or snow " * 50 + "\n", 1, "...' is neither"),
        ("m.txt", "uri,truth\na.jpg,x\n", 1, "neither a uri nor"),
        ("m.txt", "*.jpg\n", 1, "globs"),
        ("m.csv", "", 0, "no column `uri`"),
        ("m.csv", "path,truth\na.jpg,x\n", 1, "found: path, truth"),
        ("m.csv", "path;truth\na.jpg;x\n", 1, "found: path, truth"),
        ("m.csv", "uri,uri\na.jpg,x\n", 1, "twice"),
        ("m.csv", b"uri,\xff\na.jpg,x\n", 1, "not UTF-8"),
        ("m.csv", 'uri,truth\na.jpg,x\n"b.jpg,x\nc.jpg,x\n', 4, "not CSV"),
        ("m.csv", b'uri,truth\na.jpg,x\nb.jpg,"x\n\xff\nc.jpg",x\n', 4, "not UTF-8"),
        ("m.csv", "uri,truth\n,x\n", 2, "empty"),
        ("m.jsonl", '["a.jpg"]\n', 1, "not an object"),
        ("m.jsonl", '{"path": "a.jpg"}\n', 1, "`uri`"),
        ("m.jsonl", '{"uri": 3, "source-ref": "a.jpg"}\n', 1, "`uri`"),
        ("m.jsonl", "[" * 200_000 + "\n", 1, "not JSON"),
        ("m.jsonl", '{"path": "a.jpg"}\n' * 21 + '{"uri": "a.jpg"}\n', 1, "`uri`"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, words: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(BadManifest) as caught:
        read(path)
    assert f"{name}, line {line}:" in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("m.txt", "a.jpg\n../../etc/passwd\nb.jpg", 2, "absolute path"),
        ("m.txt", "../../q.jpg\na.jpg\nb.jpg", 1, "absolute path"),
        ("m.txt", "a.jpg\nftp://x/y.jpg\nb.jpg", 2, "ftp:// is not supported"),
        ("m.txt", "a.jpg\ns3://bucket\nb.jpg", 2, "names no object"),
        ("m.txt", b"a.jpg\nb\xff.jpg\nb.jpg", 2, "not UTF-8"),
        ("m.txt", b"a.jpg\nx\0y\nb.jpg", 2, "NUL byte"),
        ("m.txt", b"a.jpg\n" + b"x" * (3 * MAX_LINE_BYTES) + b".jpg\nb.jpg", 2, "longer than"),
        ("m.csv", "uri,truth\na.jpg,x\nq.jpg\nb.jpg,x", 3, "1 fields where the header has 2"),
        ("m.csv", 'uri,truth\na.jpg,x\n"q"q.jpg,x\nb.jpg,x', 3, "not CSV"),
        ("m.csv", b"uri,truth\na.jpg,x\n\xff,x\nb.jpg,x", 3, "not UTF-8"),
        ("m.csv", "uri,truth\n,x\na.jpg,x\nb.jpg,x", 2, "empty"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": \n{"uri": "b.jpg"}', 2, "not JSON"),
        ("m.jsonl", '{"path": "q.jpg"}\n{"uri": "a.jpg"}\n{"uri": "b.jpg"}', 1, "`uri`"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": "q.jpg", "n": NaN}\n{"uri": "b.jpg"}', 2, "NaN"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": "q\\u0000.jpg"}\n{"uri": "b.jpg"}', 2, "NUL character"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": "q.jpg", "x": "\\ud800"}\n{"uri": "b.jpg"}', 2, "surrogate"),
    ],
)
def test_an_odd_entry_is_left_out_and_the_others_are_taken(
    tmp_path: Path, name: str, content: str | bytes, line: int, words: str
) -> None:
    path = write(tmp_path, name, content)
    taken, (said,) = read_tolerantly(path)
    assert taken == ["a.jpg", "b.jpg"]
    assert said.startswith(f"{path}, line {line}: ")
    assert words in said
    assert len(said) < 600


def test_parquet_has_a_column_uri_and_values_of_json(tmp_path: Path) -> None:
    rows = {
        "uri": ["a.jpg", None, "s3://b/k.jpg"],
        "truth": ["none", "none", "overlay"],
        "score": [0.5, 1.0, float("nan")],
        "day": [date(2026, 1, 2)] * 3,
        "tags": [["x", "y"], [], None],
        "image": [b"\x89PNG"] * 3,
        "struct": [{"bytes": b"x", "path": "a"}] * 3,
    }
    pq.write_table(pa.table(rows), tmp_path / "m.parquet", row_group_size=2)
    items = list(ManifestSource(tmp_path / "m.parquet").candidates(after=None, skip=lambda _: False))
    first, odd, last = items
    assert isinstance(first, Candidate)
    assert isinstance(last, Candidate)
    assert first.image.uri == f"{tmp_path}/a.jpg"
    assert first.image.meta == {"truth": "none", "score": 0.5, "day": "2026-01-02", "tags": ["x", "y"]}
    assert (last.image.uri, last.image.meta) == (
        "s3://b/k.jpg",
        {"truth": "overlay", "score": None, "day": "2026-01-02", "tags": None},
    )
    assert str(odd) == f"{tmp_path}/m.parquet, row 2: the column `uri` holds no text"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.parquet", b"no parquet at all", "not Parquet"),
        ("m.csv.gz", b"uri\na.jpg\n", "gzip file is damaged"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"a.jpg\n" * 9, mtime=0)[:-12], "gzip file is damaged or cut"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"a.jpg\n" * 9, mtime=0)[:-8] + bytes(8), "gzip file is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(BadManifest, match=words):
        read(write(tmp_path, name, content))


def test_values_that_python_cannot_hold_shut_out_no_row(tmp_path: Path) -> None:
    torn = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfea")]
    )
    rows = {
        "uri": ["a.jpg", "b.jpg"],
        "at": pa.array([None, 1_234_567_891], pa.timestamp("ns")),
        "far": pa.array([0, 2**62], pa.timestamp("us")),
        "note": torn,
    }
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    odd, sound = ManifestSource(tmp_path / "m.parquet").candidates(after=None, skip=lambda _: False)
    assert "row 1: a value cannot be read: 'utf-8'" in str(odd)
    assert isinstance(sound, Candidate)
    assert sound.image.meta is not None
    assert sound.image.meta["at"] == "1970-01-01T00:00:01.234567891"
    assert str(2**62) in sound.image.meta["far"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a.jpg"], ["b.jpg"]], names=["uri", "uri"]), tmp_path / "m.parquet")
    with pytest.raises(BadManifest, match="two columns have the same name"):
        read(tmp_path / "m.parquet")


def test_a_table_without_the_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"], "image": [b"x"]}), tmp_path / "m.parquet")
    with pytest.raises(BadManifest, match=r"no column `uri` \(found: path\)"):
        read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "first", ["b.JPG", "none/b.tiff", "/none/b", "s3://b/k", "there", "sub/there", "star*.x", "uri"]
)
def test_a_first_entry_may_be_there_or_resemble_an_image(tmp_path: Path, first: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("there", "sub/there", "star*.x", "uri"):
        write(tmp_path, name, b"x")
    path = write(tmp_path, "m.txt", f"{first}\nsome words\n")  # later ones are taken as they are: gone, each a failure
    assert len(read(path)) == 2


def test_what_comes_before_the_problem_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", 'uri\na.jpg\n"b.jpg\nc.jpg\n')
    stream = ManifestSource(path).candidates(after=None, skip=lambda _: False)
    first = next(stream)
    assert isinstance(first, Candidate)
    assert first.path == "a.jpg"
    with pytest.raises(BadManifest):
        next(stream)


def test_a_manifest_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="cannot read the manifest"):
        read(tmp_path / "gone.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.txt", "m.csv", "m.jsonl"])
def test_memory_does_not_grow_with_the_manifest(tmp_path: Path, name: str) -> None:
    def peak_bytes(n_lines: int) -> int:
        lines = {
            "m.txt": lambda number: f"/a/{number}.jpg",
            "m.csv": lambda number: f"/a/{number}.jpg,none" if number else "uri,truth",
            "m.jsonl": lambda number: json.dumps({"uri": f"/a/{number}.jpg", "truth": "none"}),
        }[name]
        path = write(tmp_path, name, "\n".join(map(lines, range(n_lines))))
        tracemalloc.start()
        n = sum(1 for _ in ManifestSource(path).candidates(after=None, skip=lambda _: False))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n >= n_lines - 1
        return peak

    peak_bytes(100)  # what is imported and cached once
    assert peak_bytes(20_000) < peak_bytes(1_000) + 50_000
