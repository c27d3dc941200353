"""Manifests: three formats, every problem with its line, and memory that does not grow."""

import json
import tracemalloc
from pathlib import Path

import pytest

from producer.sources.base import Candidate
from producer.sources.manifest import MAX_LINE_BYTES, ManifestSource
from scanfleet.errors import BadManifest, SourceNotFound


def read(path: Path) -> list[Candidate]:
    return list(ManifestSource(path).candidates(after=None, skip=lambda _: False))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.txt", "# three\n\na.jpg\nsub dir/ü.png\ns3://b/k.jpg\n"),
        ("m.csv", "uri\na.jpg\nsub dir/ü.png\ns3://b/k.jpg\n"),
        ("m.jsonl", '{"uri": "a.jpg"}\n\n{"uri": "sub dir/ü.png"}\n{"uri": "s3://b/k.jpg"}'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_each_format_names_the_same_images(tmp_path: Path, name: str, content: str, mark: bytes, ending: str) -> None:
    path = write(tmp_path, name, mark + content.replace("\n", ending).encode())
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
        ("m.txt", "a.jpg\n../../etc/passwd\n", 2, "absolute path"),
        ("m.txt", "a.jpg\nhttp://x/y.jpg\n", 2, "http:// is not supported"),
        ("m.txt", "s3://bucket\n", 1, "names no object"),
        ("m.txt", b"a.jpg\nb\xff.jpg\n", 2, "not UTF-8"),
        ("m.txt", b"\x89PNG\r\n\x1a\n\x00\x00", 1, "not UTF-8"),
        ("m.txt", b"a\x00b\n", 1, "NUL byte"),
        ("m.txt", b"x" * (MAX_LINE_BYTES + 10), 1, "longer than"),
        (
            "m.txt",
            "# notes\n\nDear all, see the pictures.\na.jpg\n",
            3,
            "'Dear all, see the pictures.' is neither",
        ),
        ("m.txt", "ice and/or snow " * 50 + "\n", 1, "...' is neither"),
        ("m.txt", "uri,truth\na.jpg,x\n", 1, "neither a uri nor"),
        ("m.txt", "*.jpg\n", 1, "globs"),
        ("m.csv", "", 0, "no column `uri`"),
        ("m.csv", "path,truth\na.jpg,x\n", 1, "found: path, truth"),
        ("m.csv", "uri,uri\na.jpg,x\n", 1, "twice"),
        ("m.csv", "uri,truth\na.jpg,x\nb.jpg\n", 3, "1 fields where the header has 2"),
        ("m.csv", 'uri,truth\n"a.jpg,x\n', 2, "not CSV"),
        ("m.csv", "uri,truth\n,x\n", 2, "empty"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": \n', 2, "not JSON"),
        ("m.jsonl", '["a.jpg"]\n', 1, "not an object"),
        ("m.jsonl", '{"path": "a.jpg"}\n', 1, "`uri`"),
        ("m.jsonl", '{"uri": 3}\n', 1, "`uri`"),
        ("m.jsonl", '{"uri": "a.jpg", "score": NaN}\n', 1, "NaN"),
        ("m.jsonl", '{"uri": "a\\u0000.jpg"}\n', 1, "NUL character"),
        ("m.jsonl", '{"uri": "a.jpg", "x": "\\ud800"}\n', 1, "surrogate"),
        ("m.jsonl", "[" * 200_000 + "\n", 1, "not JSON"),
    ],
)
def test_a_problem_is_named_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, words: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(BadManifest) as caught:
        read(path)
    assert f"{name}, line {line}:" in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


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
    path = write(tmp_path, "m.txt", "a.jpg\nhttp://x\n")
    stream = ManifestSource(path).candidates(after=None, skip=lambda _: False)
    assert next(stream).path == "a.jpg"


def test_a_manifest_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="cannot read the manifest"):
        read(tmp_path / "gone.csv")


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
