"""The prevalence of a check file: unchanged hashes without it, and values that mean nothing."""

from __future__ import annotations

import pytest

from scanfleet.checks.check import load_check, parse_check
from scanfleet.errors import BadCheck

BASE = """name = "q"
prompt = "what?"
labels = ["a", "b"]
"""
FLAGGING = f'{BASE}flags = ["a"]\n'


def test_a_check_without_a_prevalence_is_stored_and_hashed_as_before() -> None:
    plain = parse_check(FLAGGING, where="q.toml")
    assert "prevalence" not in plain.model_dump(mode="json")
    assert load_check("overlay").hash == "5b7a8b7ff1a0be1245b47b7b858edbbcc63eb3a33de0231b929d9ec5c2354691"
    rare = parse_check(f"{FLAGGING}prevalence = 0.02", where="q.toml")
    assert rare.hash != plain.hash
    assert rare.as_file()["prevalence"] == 0.02


@pytest.mark.parametrize(("start", "value"), [(FLAGGING, "0"), (FLAGGING, "1.0"), (FLAGGING, "2"), (BASE, "0.02")])
def test_a_share_that_means_nothing_is_refused_by_line(start: str, value: str) -> None:
    with pytest.raises(BadCheck, match=rf"q\.toml:{start.count(chr(10)) + 1}: prevalence"):
        parse_check(f"{start}prevalence = {value}", where="q.toml")
