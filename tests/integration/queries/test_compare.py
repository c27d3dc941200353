"""Two scans or two adapters, image by image: a table of decisions, flips, and what only one side knows."""

import json
from typing import Any

import pytest

from tests.integration.queries.test_filters import call
from tests.rigs.asked_rig import Asked
from tests.rigs.rescan_rig import uri


def compared(held: Asked, *arguments: str) -> dict[str, Any]:
    code, out, err = call(held, "compare", *arguments, "--format", "json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_adapters_are_compared_by_all_they_ever_answered(held: Asked) -> None:
    """Margins n - 5 and n - 7 of 11 images; a flag from 1 on, clear below -1."""
    found = compared(held, f"adapter:{held.first}", f"adapter:{held.second}", "--flips")
    assert {(cell["a"], cell["b"]): cell["images"] for cell in found["decisions"]} == {
        ("clear", "clear"): 4,
        ("review", "clear"): 2,
        ("flag", "review"): 2,
        ("flag", "flag"): 3,
    }
    assert (found["both"], found["decided"], found["changed"]) == (11, 11, 4)
    assert (found["only_in_a"], found["only_in_b"]) == (0, 0)
    assert [flip["uri"] for flip in found["flips"]] == [uri(4), uri(5), uri(6), uri(7)]
    assert found["flips"][2] == {
        "uri": uri(6),
        "a_decision": "flag",
        "a_label": "overlay",
        "a_margin": 1.0,
        "b_decision": "review",
        "b_label": "none",
        "b_margin": -1.0,
    }


def test_scans_are_compared_by_name_with_the_answers_that_stand(held: Asked) -> None:
    """The other scan has images 0 to 3 with n - 5, all clear without an adapter too; the failed one has no answer."""
    found = compared(held, held.scan, held.other)
    assert (found["both"], found["only_in_a"], found["only_in_b"]) == (4, 8, 0)
    assert compared(held, held.other, held.scan)["only_in_b"] == 8
    assert compared(held, held.scan, held.other, "--by", "content")["only_in_a"] == 7  # the failed one has no bytes
    assert compared(held, held.scan, held.other, "--where", "campaign=spring")["both"] == 2


def test_filters_of_images_hold_for_adapters_too(held: Asked) -> None:
    both = (f"adapter:{held.first}", f"adapter:{held.second}")
    assert compared(held, *both, "--prefix", "mem://a/0001")["both"] == 1
    assert compared(held, *both, "--scan", held.scan)["both"] == 11
    assert compared(held, *both, "--scan", held.other)["both"] == 0
    assert len(compared(held, *both, "--flips", "--limit", "2")["flips"]) == 2


def test_people_read_a_table(held: Asked) -> None:
    code, out, _ = call(held, "compare", "adapter:aa", "adapter:bb", "--flips")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "11 images of both (rows: adapter aa, columns: adapter bb)"
    assert lines[2].split() == ["clear", "4", "0", "0"]
    assert lines[4].split() == ["flag", "0", "2", "3"]
    assert lines[5] == "decided differently: 4 of 11"
    assert len(lines) == 7 + 2 + 4


@pytest.mark.parametrize(
    ("sides", "code", "words"),
    [
        (("nowhere", "adapter:1"), 17, "no scan and no adapter 'nowhere'"),
        (("adapter:aa", "adapter:aa"), 2, "named twice"),
        (("check:aa", "adapter:aa"), 2, "scan:ID or adapter:ID"),
    ],
)
def test_sides_that_are_none_are_refused_in_one_line(
    held: Asked, sides: tuple[str, str], code: int, words: str
) -> None:
    found, out, said = call(held, "compare", *sides)
    assert (found, out, said.count("\n")) == (code, "", 1)
    assert words in said


def test_a_rescan_and_its_scan_have_the_same_answers(held: Asked) -> None:
    code, _, said = call(held, "compare", held.scan, held.rescan)
    assert (code, said.count("\n")) == (2, 1)
    assert f"scanfleet rescan {held.rescan} --report" in said
    assert call(held, "compare", held.other, "adapter:aa")[0] == 2  # of another check
