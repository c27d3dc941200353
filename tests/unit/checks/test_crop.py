"""The crop table of a check file: valid tables, errors with field and line, and unchanged hashes."""

from __future__ import annotations

import json

import pytest
import tomlkit

from scanfleet.checks.check import Check, load_check, parse_check
from scanfleet.checks.crop import MODES, CropSettings, crop_text
from scanfleet.errors import BadCheck

BASE = """name = "q"
prompt = "what?"
labels = ["a", "b"]
flags = ["a"]
"""
STEPS = """
[[steps]]
prompt = "one?"
answers = { yes = "next", no = "b" }
[[steps]]
prompt = "two?"
answers = { yes = "a", no = "b" }
"""
WORDS = "must be never, uncertain, shrunk, uncertain-or-shrunk or always"


@pytest.mark.parametrize("mode", MODES)
def test_a_word_is_short_for_a_table(mode: str) -> None:
    check = parse_check(f'{BASE}crop = "{mode}"', where="q.toml")
    assert check.crop == ("never" if mode == "never" else CropSettings.model_validate({"when": mode}))
    if mode != "never":
        assert parse_check(f'{BASE}[crop]\nwhen = "{mode}"', where="q.toml").hash == check.hash
    assert Check.model_validate(check.model_dump(mode="json")) == check


def test_a_check_that_never_looks_again_is_stored_and_hashed_as_ever() -> None:
    assert load_check("overlay").hash == "5b7a8b7ff1a0be1245b47b7b858edbbcc63eb3a33de0231b929d9ec5c2354691"
    plain = parse_check(BASE, where="q.toml")
    assert parse_check(f'{BASE}crop = "never"', where="q.toml").hash == plain.hash
    assert parse_check(f'{BASE}crop = "always"', where="q.toml").hash != plain.hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('crop = "alwyas"', f"q.toml:5: crop: {WORDS} (did you mean always?)"),
        ('crop = "maybe"', f"q.toml:5: crop: {WORDS}"),
        ("crop = true", f"q.toml:5: crop: {WORDS}, or a table [crop]"),
        ("[[crop]]\nband = 1", f"q.toml:5: crop: {WORDS}, or a table [crop]"),
        ('[crop]\nwhen = "never"', 'q.toml:5: crop: for no crop pass write crop = "never", without a table'),
        (
            '[crop]\nwhen = "nevr"\nband = -1',
            "q.toml:6: crop.when: must be 'uncertain', 'shrunk', 'uncertain-or-shrunk' or 'always'; "
            "line 7: crop.band: must be at least 0",
        ),
        ("crop = { shrink = 0.5 }", "q.toml:5: crop.shrink: must be at least 1"),
        ("crop.max_extra = 0", "q.toml:5: crop.max_extra: must be more than 0"),
        ("[crop]\n\nlayer = [3]", "q.toml:7: crop.layer: is not known (did you mean layers?)"),
        ("[crop]\nlayers = [3, -1]", "q.toml:6: crop.layers: entry 2 must be at least 0"),
        ("[crop]\nlayers = 3", "q.toml:6: crop.layers: must be a list of whole numbers"),
        ("[crop]\nband = nan", "q.toml:6: crop.band: must be at most 20"),
        (
            '[crop]\nlook = "larger"',
            "q.toml:6: crop.look: larger reads the same again: set crop_pixels, other than max_pixels (200704)",
        ),
        (
            'max_pixels = 5000\n[crop]\ncrop_pixels = 5000\nlook = "larger"',
            "q.toml:8: crop.look: larger reads the same again: set crop_pixels, other than max_pixels (5000)",
        ),
        (
            '[crop]\nlook = "adapted"\ncrop_pixels = 250_879',
            "q.toml:6: crop.look: adapted never reads more: set crop_pixels, to 250880 or more (1.25 times max_pixels)",
        ),
        (
            'crop = { look = "adapted" }',
            "q.toml:5: crop.look: adapted never reads more: set crop_pixels, to 250880 or more (1.25 times max_pixels)",
        ),
        (
            'crop = "always"' + STEPS,
            "q.toml:5: crop: cannot go with steps, which are asked of the whole image: leave one of the two out",
        ),
    ],
)
def test_problems_are_reported_in_one_line_with_field_and_line(text: str, said: str) -> None:
    with pytest.raises(BadCheck) as told:
        parse_check(BASE + text, where="q.toml")
    assert str(told.value) == said


@pytest.mark.parametrize(("look", "pixels"), [("larger", 100_000), ("larger", 300_000), ("adapted", 250_880)])
def test_a_whole_with_its_own_budget_is_accepted(look: str, pixels: int) -> None:
    check = parse_check(f'{BASE}[crop]\nlook = "{look}"\ncrop_pixels = {pixels}', where="q.toml")
    assert isinstance(check.crop, CropSettings)
    assert check.crop.idle(check.max_pixels) is None


@pytest.mark.parametrize("table", ["", "crop_pixels = 50000\nlayers = [3, 4]\ntiled = true"])
def test_what_is_shown_can_be_read_again(table: str) -> None:
    check = parse_check(f"{BASE}[descriptions]\na = 'x'\n[crop]\n{table}", where="q.toml")
    assert parse_check(tomlkit.dumps(check.as_file()), where="q.toml") == check


def test_another_band_is_another_scorer() -> None:
    assert crop_text("never", band={"low": 0.0, "high": 1.0}) == "never"
    settings = CropSettings(band=0.25)
    assert json.loads(crop_text(settings)) == settings.model_dump(mode="json")
    texts = {crop_text(settings, band={"low": low, "high": 1.0}) for low in (None, 0.0, 0.5)}
    assert len(texts) == 3
