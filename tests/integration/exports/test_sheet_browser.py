"""The contact sheet in a real browser: its policy lets it work, it fits every window, and its keys do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.results.results import ResultFilter
from scanfleet.producer.reports.contact_sheet import write_report
from tests.rigs.sheet_rig import Planted, plant
from tests.services import Browser

pytestmark = pytest.mark.slow

SIZES = ((390, 844), (820, 1180), (1440, 900))
LONG = "x" * 90
EVIL = "<img src=x onerror=document.title=1>"
IMAGES = (
    Planted(name="c.png", decision="flag", score=0.9, meta={"truth": "none", LONG: LONG}),
    Planted(name="a.png", decision="flag", score=0.8, meta={"truth": "overlay"}),
    Planted(name="b.png", decision="review", score=0.5, margin=0.1, meta={"truth": "overlay", "campaign": "spring"}),
    Planted(name=f"{LONG}.png", decision="clear", label="none", score=0.1, margin=-2.0, meta={"truth": "overlay"}),
    Planted(name=f"{EVIL}.png", decision="flag", score=0.7),
    Planted(name="e.png", decision=None),
)
NAMES = "[...document.querySelectorAll('.card:not([hidden])')].map(card => card.dataset.name)"
LISTED = [f"{LONG}.png", "c.png", "b.png", "a.png", f"{EVIL}.png"]  # missed, false alarm, review, flags


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheet")
    scan = plant(folder, folder / "in", IMAGES)
    settings, path = load_settings(data_dir=folder), folder / "sheet.html"
    engine = connect(settings)
    write_report(engine, settings, scan, path, truth_column="truth", wanted=ResultFilter(state="verdict"))
    engine.dispose()
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_fits_the_window_and_follows_its_colours(
    browser: Browser, page: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(page, width=width, height=height, dark=dark)
    browser.ask("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('.card, .card dl, table')].filter(each => each.scrollWidth > each.clientWidth)"
    assert browser.ask(f"{cut}.length") == 0
    colour = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(19, 20, 22)") is dark
    browser.ask("document.querySelector('.open').click()")
    assert browser.ask("document.querySelector('#large').getBoundingClientRect().right") <= width
    browser.press("Escape")


def test_pictures_load_and_nothing_that_a_stranger_wrote_runs(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask("Promise.all([...document.querySelectorAll('.card img')].map(each => each.decode()))")
    assert browser.ask("[...document.querySelectorAll('.card img')].every(each => each.naturalWidth > 0)")
    assert browser.ask("document.title").startswith("overlay: scan")
    assert browser.ask(NAMES) == LISTED
    assert browser.complaints == []  # no violation of the policy, and no error of the script


def test_keys_filter_search_and_walk(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("f")
    assert browser.ask(NAMES) == [f"{LONG}.png", "b.png"]
    browser.press("f")
    browser.press("w")
    assert browser.ask(NAMES) == LISTED[:2]
    browser.press("w")
    browser.press("/")
    for letter in "spring":
        browser.press(letter)
    assert browser.ask(NAMES) == ["b.png"]
    assert browser.ask("document.querySelector('#shown').value") == "1 of 5 images"
    browser.press("Escape")
    assert browser.ask(NAMES) == LISTED
    browser.press("j")
    browser.press("j")
    browser.press("Enter")
    shown = "document.querySelector('#large img').alt"
    assert (browser.ask("document.querySelector('#large').open"), browser.ask(shown)) == (True, "c.png")
    browser.press("ArrowRight")
    assert browser.ask(shown) == "b.png"
    browser.press("Escape")
    assert not browser.ask("document.querySelector('#large').open")
    focused = "document.activeElement.closest('.card').dataset.name"
    after_close = f"new Promise(done => requestAnimationFrame(() => setTimeout(() => done({focused}))))"
    assert browser.ask(after_close) == "b.png"
    assert browser.complaints == []


def test_images_are_sorted_within_their_section(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask(
        "{ const sort = document.querySelector('#sort'); sort.value = 'lowest'; "
        "sort.dispatchEvent(new Event('change')) }"
    )
    assert browser.ask(NAMES) == [*LISTED[:3], f"{EVIL}.png", "a.png"]
