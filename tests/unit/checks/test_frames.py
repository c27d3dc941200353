"""The frames table of a check file: valid tables, errors with field and line, and unchanged hashes."""

from __future__ import annotations

import pytest
import tomlkit

from scanfleet.checks.check import Check, load_check, parse_check
from scanfleet.checks.frames import FrameSettings
from scanfleet.errors import BadCheck

BASE = """name = "q"
prompt = "what?"
labels = ["a", "b"]
flags = ["a"]
"""


def test_a_check_with_the_default_frames_is_stored_and_hashed_as_before() -> None:
    assert load_check("overlay").hash == "5b7a8b7ff1a0be1245b47b7b858edbbcc63eb3a33de0231b929d9ec5c2354691"
    plain = parse_check(BASE, where="q.toml")
    spelt_out = parse_check(f'{BASE}[frames]\nmax = 8\npick = "mixed"', where="q.toml")
    assert spelt_out.hash == plain.hash
    assert "frames" not in spelt_out.model_dump(mode="json")
    assert parse_check(f"{BASE}[frames]\nmax = 1", where="q.toml").hash != plain.hash


@pytest.mark.parametrize(
    "table", ["[frames]\nmax = 3", 'frames = { max = 64, pick = "even" }', "frames.pick = 'first'"]
)
def test_what_is_shown_can_be_read_again(table: str) -> None:
    check = parse_check(BASE + table, where="q.toml")
    assert check.frames != FrameSettings()
    assert parse_check(tomlkit.dumps(check.as_file()), where="q.toml") == check
    assert Check.model_validate(check.model_dump(mode="json")) == check


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("[frames]\n\nmax = 0", 7, "frames.max"),
        ("[frames]\nmax = 65", 6, "frames.max"),
        ('[frames]\nmax = 2\npick = "last"', 7, "frames.pick"),
        ("frames.max = 1.5", 5, "frames.max"),
        ("[frames]\nmaxx = 1", 6, "frames.maxx"),
        ("\nframes = 3", 6, "frames"),
        ("[[frames]]\nmax = 3", 5, "frames"),
    ],
)
def test_problems_are_reported_with_field_and_line(text: str, line: int, field: str) -> None:
    with pytest.raises(BadCheck, match=rf"^q\.toml:{line}: {field}: "):
        parse_check(BASE + text, where="q.toml")
