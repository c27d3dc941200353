"""Packs of checks, and which checks one pass answers."""

import re
from pathlib import Path

import pytest

from scanfleet.checks.check import load_check
from scanfleet.checks.pack import load_pack
from scanfleet.checks.passes import plan_passes, reads_alone
from scanfleet.errors import BadCheck, UnknownName
from tests.rigs.many_questions import question_named


def pack(folder: Path, text: str) -> Path:
    path = folder / "ads.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_relative_to_the_pack_and_names_are_names(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    own = (tmp_path / "checks" / "logo.toml").absolute()
    own.write_text('name = "logo"\nprompt = "Is there a logo?"\nlabels = ["yes", "no"]\n', encoding="utf-8")
    entries = load_pack(pack(tmp_path, 'checks = ["overlay", "checks/logo.toml", "overlay"]\n'))
    assert [entry.name for entry in entries] == ["overlay", str(own)]
    assert [entry.find(load_check).name for entry in entries] == ["overlay", "logo"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("checks = [", "", "not TOML"),
        ("# ads\n\nchecks = 3", ":3", "checks: must be a list of names and files"),
        ("checks = []", ":1", "checks: must be a list"),
        ('checks = ["overlay", 3]', ":1", "checks: must be a list"),
        ("", ":1", "checks: must be a list"),
        ('checks = ["overlay"]\n\ncheks = 1', ":3", "cheks: is not known (did you mean checks?)"),
        ('[checks]\nname = "overlay"', ":1", "checks: must be a list"),
        (f"checks = {[f'c{number}' for number in range(65)]}", ":1", "checks: must have at most 64 entries"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, text: str, line: str, words: str) -> None:
    path = pack(tmp_path, text)
    with pytest.raises(BadCheck, match=re.escape(f"{path}{line}: {words}")) as caught:
        load_pack(path)
    assert "\n" not in str(caught.value)


def test_a_check_that_is_not_there_is_told_with_the_line_of_the_pack(tmp_path: Path) -> None:
    path = pack(tmp_path, 'checks = [\n  "overlay",\n  "ovrlay",\n  "logo.toml",\n]\n')
    _, unknown, missing = load_pack(path)
    with pytest.raises(UnknownName, match=re.escape(f"{path}:3: no built-in check 'ovrlay'")):
        unknown.find(load_check)
    with pytest.raises(BadCheck, match=re.escape(f"{path}:4: {tmp_path / 'logo.toml'}: cannot be read: No such file")):
        missing.find(load_check)


@pytest.mark.parametrize(("data", "words"), [(b"\xff", "not UTF-8"), (None, "No such file")])
def test_a_pack_that_cannot_be_read_is_one_line(tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "ads.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadCheck, match=f"{re.escape(str(path))}: cannot be read: {words}"):
        load_pack(path)


def test_checks_of_one_size_share_a_pass_and_the_others_say_why_not() -> None:
    logo, knife = question_named("logo"), question_named("knife")
    small, frames = question_named("small", max_pixels=4096), question_named("frames", frames={"max": 2})
    boxes, crop = question_named("boxes", boxes=True), question_named("crop", crop="always")
    found = plan_passes([logo, boxes, small, knife, crop, frames], model="pocket")
    assert [[check.name for check in each.checks] for each in found] == [
        ["logo", "knife"], ["boxes"], ["small"], ["crop"], ["frames"],
    ]  # fmt: skip
    assert [each.alone for each in found] == [None, "it asks for boxes", None, "it has a crop pass", None]
    assert len(plan_passes([logo, knife], model="endpoint:gpt")) == 2
    assert reads_alone(load_check("overlay-steps"), model="pocket") == "it has steps"


def test_a_pass_is_named_by_its_images_and_not_by_its_checks() -> None:
    logo, knife, text = (question_named(name) for name in ("logo", "knife", "text"))
    (two,), (three,) = plan_passes([logo, knife], model="pocket"), plan_passes([text, knife, logo], model="pocket")
    assert two.id("/a") == three.id("/a") is not None
    assert two.id("/a") != two.id("/b")
    (small,) = plan_passes([question_named(name, max_pixels=4096) for name in ("a", "b")], model="pocket")
    assert small.id("/a") != two.id("/a")
    (alone,) = plan_passes([logo], model="pocket")
    assert alone.id("/a") is None
