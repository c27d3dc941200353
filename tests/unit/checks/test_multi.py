"""Checks of kind multi: one file, a check for each class, and sets of classes as labels."""

import re
from pathlib import Path

import pytest

from scanfleet.checks.check import Check
from scanfleet.checks.multi import is_member, load_checks, parse_multi, require_one, set_name, split_classes
from scanfleet.checks.passes import plan_passes
from scanfleet.errors import BadCheck

XRAY = """\
kind = "multi"
name = "xray"
prompt = "Does this bag hold a {class}?"
classes = ["knife", "Hand gun"]
max_pixels = 65536
prevalence = { knife = 0.01 }

[descriptions]
"Hand gun" = "gun, or a part of one"
"""


def test_each_class_is_a_check_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "xray.toml"
    file.write_text(XRAY)
    knife, gun = load_checks(str(file))
    assert (knife.name, gun.name) == ("xray--knife", "xray--hand-gun")
    assert knife.prompt == "Does this bag hold a knife?"
    assert gun.prompt == "Does this bag hold a gun, or a part of one?"
    assert (gun.labels, gun.flags) == (("Hand gun", "none"), ("Hand gun",))
    assert gun.descriptions == {"Hand gun": "yes", "none": "no"}
    assert (knife.prevalence, gun.prevalence, gun.max_pixels) == (0.01, None, 65536)


def test_the_classes_share_a_pass() -> None:
    (planned,) = plan_passes(parse_multi(XRAY, where="xray.toml"), model="pocket")
    assert len(planned.checks) == 2


def test_a_check_of_another_kind_is_itself() -> None:
    (overlay,) = load_checks("overlay")
    assert overlay.name == "overlay"
    assert set_name([overlay]) is None
    assert require_one([overlay], name="overlay") is overlay


def test_the_checks_tell_what_they_belong_to() -> None:
    checks = parse_multi(XRAY, where="xray.toml")
    assert set_name(checks) == "xray"
    assert is_member(checks[0], "xray")
    assert not is_member(checks[0], "x")
    other = Check(name="xray--other", prompt="Is there?", labels=("yes", "no"), flags=("yes",))
    assert not is_member(other, "xray")
    with pytest.raises(
        BadCheck, match="xray is a check of kind multi; choose one of its checks: xray--knife, xray--hand"
    ):
        require_one(checks, name="xray")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("{class}", "class", r":3: prompt: must name \{class\}"),
        ('["knife", "Hand gun"]', "[]", ":4: classes: must be a list of texts"),
        ('"knife", "Hand gun"', '"Hand gun", "hand-gun"', ":4: classes: two of them have the same name"),
        ('"knife"', '"knife", "none"', ":4: classes: 'none' cannot be the name of a class"),
        ('"knife"', '"knife", "?"', ":4: classes: '\\?' cannot be the name"),
        ('"knife"', '"knife", "a,b"', ":4: classes: 'a,b' holds one of"),
        ('"knife"', str([f"c{i}" for i in range(65)])[1:-1], ":4: classes: must have at most 64"),
        ("65536", "3", ":5: max_pixels: must be at least 784"),
        ("max_pixels", "max_pixel", ":5: max_pixel: is not known"),
        ("max_pixels = 65536", 'labels = ["a"]', ":5: labels: cannot go with kind multi"),
        ("knife = 0.01", "knive = 0.01", ":6: prevalence: knive is not among the classes"),
        ('"Hand gun" =', '"Hand" =', ":8: descriptions: Hand is not among the classes"),
        ('name = "xray"', 'name = "X"', ":2: name: must be lower-case letters"),
        ('name = "xray"', "", ":1: name: must be lower-case letters"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(before: str, after: str, words: str) -> None:
    assert before in XRAY
    with pytest.raises(BadCheck, match="^xray.toml" + words) as caught:
        parse_multi(XRAY.replace(before, after, 1), where="xray.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_toml_is_told_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "xray.toml"
    file.write_text("kind = ")
    with pytest.raises(BadCheck, match=re.escape(f"{file}: not TOML")):
        load_checks(str(file))


@pytest.mark.parametrize(
    ("text", "classes"),
    [("knife", ["knife"]), ("knife, gun;gun | saw", ["knife", "gun", "saw"]), ("none", []), ("", []), (" , ", [])],
)
def test_a_label_is_a_set_of_classes(text: str, classes: list[str]) -> None:
    assert split_classes(text) == classes
