"""`explain` in a check: what it goes with, and what it leaves alone."""

import pytest

from scanfleet.checks.check import Check, load_check, parse_check
from scanfleet.errors import BadCheck

TEXT = 'name = "q"\nprompt = "Is it?"\nlabels = ["yes", "no"]\nflags = ["yes"]\n'


def test_it_is_part_of_the_version_and_not_of_what_is_scored() -> None:
    plain, asked = parse_check(TEXT, where="q"), parse_check(f"{TEXT}explain = true\n", where="q")
    more = parse_check(f"{TEXT}explain = true\nexplain_tokens = 200\n", where="q")
    assert len({plain.hash, asked.hash, more.hash}) == 3
    assert plain.hash == plain.scored_hash == asked.scored_hash == more.scored_hash
    assert asked.unexplained() == more.unexplained() == plain
    assert (asked.explain_tokens, more.explain_tokens) == (48, 200)
    assert Check.model_validate(more.model_dump(mode="json")) == more
    assert "explain" not in plain.model_dump()
    assert plain.reads_otherwise(asked) is None


def test_the_hash_of_a_stored_check_is_the_one_from_before() -> None:
    assert load_check("overlay").hash.startswith("5b7a8b7ff1a0be12")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("explain = true\nflags = []", "explain: is for flagged images, and no label flags"),
        ("explain_tokens = 12", "explain_tokens: has no effect without explain = true"),
        ("explain = true\nexplain_tokens = 0", "explain_tokens: "),
        ("explain = true\nexplain_tokens = 513", "explain_tokens: "),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(more: str, words: str) -> None:
    text = TEXT if "flags" not in more else TEXT.replace('flags = ["yes"]\n', "")
    with pytest.raises(BadCheck, match=words) as caught:
        parse_check(text + more, where="q.toml")
    assert "q.toml:" in str(caught.value)
