"""Manifests and check files of any content: a result that a database can hold, or the named error; nothing else."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scanfleet.checks.check import Check, load_check, parse_check
from scanfleet.checks.crop import MODES, CropSettings
from scanfleet.errors import BadCheck, BadManifest
from scanfleet.producer.sources.base import Candidate
from scanfleet.producer.sources.manifest import READERS
from scanfleet.producer.sources.manifest_source import ManifestSource

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
many = settings(max_examples=N_EXAMPLES, suppress_health_check=list(HealthCheck))

HUGE = "9" * 5000
DEEP = 3000  # brackets within brackets: beyond every parser's stack
# What trips parsers: quotes, brackets, marks of all kinds, half of a surrogate pair, the byte order mark.
TRIPS = [
    *("\0", "\ufeff", "\u2028", "\r", "\n", "\r\n", '"', "'", '"""', "\\", "\\ud800", "\\u0000", ",", "#", "%00"),
    *(
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ":",
        "://",
        "s3://",
        "s3://b/k",
        "file://",
        "file:///",
        "file:///%00",
        "file:///%ff",
    ),
    *(
        "..",
        "/",
        "a.jpg",
        "1e999",
        "-1e999",
        "NaN",
        "nan",
        "inf",
        "true",
        "null",
        "0x",
        "1979-05-27T07:32:00Z",
        "²",
        "😀",
    ),
    *("uri", "truth", "name", "prompt", "labels", "[descriptions]"),
]
words = st.one_of(st.sampled_from(TRIPS), st.text(max_size=12))
texts = st.lists(words, max_size=30).map("".join)
anything = st.one_of(st.binary(max_size=300), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=8,
)


def storable(value: object) -> None:
    """As JSON in every database: no half of a surrogate pair, no zero character, no number that is none."""
    encoded = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert b"\0" not in encoded
    assert "\0" not in _strings(value)


def _strings(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_strings([*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return "".join(map(_strings, value))
    return value if isinstance(value, str) else ""


# manifests


def read_manifest(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        path.write_bytes(content)
        try:
            found = list(ManifestSource(path).candidates(after=None, skip=lambda _: False))
            images = [item.image for item in found if isinstance(item, Candidate)]
        except BadManifest as error:
            images, said = [], str(error)
        else:
            said = f"m{suffix}"
    assert f"m{suffix}" in said
    assert "\n" not in said
    for image in images:
        storable([image.uri, image.meta])
        assert image.uri


@pytest.mark.parametrize("suffix", sorted(READERS))
@many
@given(content=anything)
@example(content=b"\xff\xfeu\0r\0i\0")
@example(content=b"uri\nfile:///a%00b\n")
@example(content=b"uri\n" + b"x" * 5000 + b"\n")
def test_manifests_of_any_bytes(suffix: str, content: bytes) -> None:
    read_manifest(content, suffix)


@many
@given(columns=st.lists(words, max_size=3), rows=st.lists(st.lists(words, max_size=4), max_size=4))
def test_manifests_that_are_tables(columns: list[str], rows: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["uri", *columns], *rows])
    read_manifest(out.getvalue().encode("utf-8", "surrogatepass"), ".csv")


@pytest.mark.slow
@many
@given(rows=st.lists(st.dictionaries(words, json_values, max_size=3), max_size=3), uri=words)
@example(rows=[{"x": float("inf")}], uri="a.jpg")
def test_manifests_that_are_objects(rows: list[dict[str, Any]], uri: str) -> None:
    lines = [json.dumps({"uri": uri, **row}).replace("Infinity", "1e999") for row in rows]
    read_manifest("\n".join(lines).encode(), ".jsonl")


@pytest.mark.parametrize("deep", ["[" * DEEP, '{"a":' * DEEP, '{"uri":"a","m":' + "[" * 900 + "]" * 900 + "}"])
def test_manifests_that_are_deep(deep: str) -> None:
    read_manifest(deep.encode(), ".jsonl")


def test_a_number_without_end_in_a_manifest() -> None:
    read_manifest(f'{{"uri": "a.jpg", "n": {HUGE}}}'.encode(), ".jsonl")


# checks


def accept(call: Callable[[], Check]) -> None:
    try:
        check = call()
    except BadCheck as error:
        said = str(error)
    else:
        assert len(check.hash) == 64
        storable(check.model_dump(mode="json"))
        return
    assert "c.toml" in said
    assert "\n" not in said


@many
@given(content=anything)
def test_checks_of_any_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.toml"
        path.write_bytes(content)
        accept(lambda: load_check(str(path)))


toml_values = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), words, st.dates(), st.datetimes(), st.times()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
labels = st.lists(st.one_of(words, st.sampled_from("abc")), max_size=5)
crop_table = st.dictionaries(
    st.one_of(st.sampled_from(sorted(CropSettings.model_fields)), words),
    st.one_of(st.sampled_from([*MODES, "pair", "tiles", "mean", 0.5, 2, 100_000, True]), toml_values),
    max_size=5,
)
sound: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["a", "b-1"]),
    "prompt": st.text(min_size=3, max_size=20),
    "labels": labels,
    "flags": st.lists(st.sampled_from("abc"), max_size=2),
    "descriptions": st.dictionaries(st.one_of(words, st.sampled_from("abc")), words, max_size=3),
    "max_pixels": st.integers(),
    "min_pixels": st.integers(),
    "boxes": st.booleans(),
    "crop": st.one_of(st.sampled_from(MODES), crop_table),
    "target_recall": st.floats(),
    "target_precision": st.floats(),
}
needed = {name: st.one_of(sound[name], sound[name], toml_values) for name in ("name", "prompt")}
checks = st.fixed_dictionaries(
    {**needed, "labels": st.one_of(st.just(["a", "b", "c"]), labels)},
    optional={
        name: st.one_of(values, values, toml_values)
        for name, values in sound.items()
        if name not in (*needed, "labels")
    }
    | {"other": toml_values},
)


@many
@given(body=checks)
@example(body={"name": "c", "prompt": "what", "labels": ["a", "b"], "descriptions": {"²": 3}})
@example(body={"name": "c", "prompt": "a\0b", "labels": ["a", "b"]})
@example(body={"name": "c", "prompt": "what", "labels": ["a", "\0"]})
def test_checks_of_sound_and_odd_fields(body: dict[str, Any]) -> None:
    try:
        text = tomlkit.dumps(body)
    except (UnicodeEncodeError, ValueError, TypeError):  # what TOML cannot say
        return
    accept(lambda: parse_check(text, where="c.toml"))


@pytest.mark.parametrize(
    "text", ["a = " + "[" * DEEP, f"max_pixels = {HUGE}", "a." * DEEP + "b = 1", "[" + "a." * DEEP + "b]"]
)
def test_checks_beyond_the_parser(text: str) -> None:
    accept(lambda: parse_check(text, where="c.toml"))
