"""The page of the contact sheet: whole, escaped, small enough, and readable in the dark."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.results.results import Result, ResultFilter
from scanfleet.producer.reports.contact_sheet import Section, _page
from scanfleet.producer.reports.sheet import charts
from scanfleet.producer.reports.sheet.cards import make_card
from scanfleet.producer.reports.sheet.pictures import Picture, bytes_each
from scanfleet.producer.reports.sheet.selection import Sheet, Wanted
from scanfleet.producer.reports.sheet.wording import score_in_words
from scanfleet.producer.reports.summary import summarise
from scanfleet.stats.stage_times import SECONDS, StageTimes
from tests.helpers.cli_call import scanfleet
from tests.rigs.sheet_rig import Planted, plant

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
VOID = ("meta", "img", "input", "br")
CSS = Path(__file__).parents[4] / "producer" / "templates" / "report.css"
IMAGES = (
    Planted(name="a.png", decision="flag", meta={"truth": "none", "campaign": "spring"}),
    Planted(name="b.png", decision="review", score=0.5, margin=0.1, meta={"truth": "overlay"}),
    Planted(name="c.png", decision="clear", label="none", score=0.1, margin=-2.0, meta={"truth": "none"}),
    Planted(name="d.png", decision="clear", label="none", score=0.2, margin=-1.0, meta={"truth": "overlay"}),
    Planted(name="e.png", decision=None, meta={"truth": "none"}),
)


class Page(HTMLParser):
    """The elements of a page in order, as (tag, attributes); a tag that is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open[-1] not in ("script", "style"):
            self.words.append(data.strip())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [given for each, given in self.elements if each == tag and wanted.items() <= given.items()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


TAGS = """
    html head meta title style body header main section h1 h2 h3 p ul ol li b svg rect text line div table thead tbody
    tr th td dl dt dd details summary form input fieldset label select option output kbd button img span a dialog nav
    script br code
"""


def sheet(data_dir: Path, scan: str, *options: str) -> str:
    page = data_dir / "sheet.html"
    made = scanfleet("scans", "report", scan, "-o", page, *options, data_dir=data_dir)
    assert made.returncode == 0, made.stderr
    return page.read_text(encoding="utf-8")


def test_it_is_a_whole_page_with_figures_first_and_pictures_named(tmp_path: Path) -> None:
    scan = plant(tmp_path, tmp_path / "in", IMAGES)
    page = Page(sheet(tmp_path, scan, "--truth", "truth"))
    assert [len(page.all(tag)) for tag in ("h1", "main", "header", "dialog", "script", "style")] == [1] * 6
    order = ["5 images", "1 flagged", "1 to review", "2 clear", "1 could not be scored", "How often it is right"]
    order += ["Images by score", "Wrong answers: 2", "To review: 1"]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert "1 missed (clear, and should have been flagged), 1 false alarms" in page.text
    assert [image["alt"] for image in page.all("img", loading="lazy", decoding="async")] == ["d.png", "a.png", "b.png"]
    assert [card["data-decision"] for card in page.all("li", **{"class": "card"})] == ["clear", "flag", "review"]
    assert "campaign spring" in page.text
    assert "50.0 %" in page.text  # recall of flags and reviews: one of two
    assert "decode truncated 1" in page.text


def test_nothing_of_it_comes_from_elsewhere_and_only_its_own_script_and_style_run(tmp_path: Path) -> None:
    text = sheet(tmp_path, plant(tmp_path, tmp_path / "in", IMAGES))
    page = Page(text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy["content"]
    assert "default-src 'none'" in policy["content"]
    assert "unsafe" not in policy["content"]
    for tag, given in page.elements:
        assert not [name for name in given if name == "style" or name.startswith("on")], tag
        assert given.get("src", "data:").startswith("data:")
    assert {given["href"].split("/")[0] for given in page.all("a")} == {"file:"}


def test_names_labels_and_manifests_are_text(tmp_path: Path) -> None:
    check = load_check("overlay").model_copy(
        update={"name": "ads", "labels": ("overlay", HOSTILE), "prompt": HOSTILE, "descriptions": {}}
    )
    names = (HOSTILE.replace("/", "|") + ".png", "javascript:alert(3).png")
    images = [Planted(name=name, label=HOSTILE, meta={HOSTILE: HOSTILE, "n": {"<b>": [1]}}) for name in names]
    scan = plant(tmp_path, tmp_path / "in", images, check)
    page = Page(sheet(tmp_path, scan, "--truth", HOSTILE))
    assert {tag for tag, _ in page.elements} <= set(TAGS.split())
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == len(images) + 1
    assert {image["alt"] for image in page.all("img", loading="lazy")} == set(names)
    assert HOSTILE in page.text
    assert '{"<b>": [1]}' in page.text


@pytest.mark.parametrize(
    ("uri", "href"),
    [
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("s3://ads/a.png", None),
        ("/in/ads.tar#a.png", None),
        ("https://ads.example/a.png", "https://ads.example/a.png"),
        ('/in/a "b".png', "file:///in/a%20%22b%22.png"),
    ],
)
def test_only_files_and_web_addresses_are_links(uri: str, href: str | None) -> None:
    assert _card(uri, {}).href == href


def test_long_manifests_are_cut() -> None:
    shown = _card("/a.png", {f"c{number}": "x" * 1000 for number in range(40)}).meta
    assert len(shown) == 13
    assert shown[-1] == ("", "28 more columns")
    assert max(len(value) for _, value in shown) == 121


def test_two_thousand_images_of_the_worst_kind_stay_below_30_mb(tmp_path: Path) -> None:
    scan = plant(tmp_path, tmp_path / "in", IMAGES[:1])
    engine = connect(load_settings(data_dir=tmp_path))
    share = base64.b64encode(bytes(bytes_each(2000))).decode()
    picture = Picture(uri=f"data:image/webp;base64,{share}", width=384, height=256)
    meta = {f"column {number}": "&" * 25 for number in range(12)}
    cards = [_card(f"s3://ads/{'folder/' * 8}{number:05}.jpg", meta, picture) for number in range(2000)]
    section = Section(kind="flag", title="Flagged", meaning="", n_matching=2000, cards=cards)
    sheet = Sheet(load_check("overlay"), Wanted(filter=ResultFilter(), limit=2000), {})
    page = _page(summarise(engine, scan), load_check("overlay"), sheet, [section])
    engine.dispose()
    assert page.count('<li class="card"') == 2000
    assert 20_000_000 < len(page.encode()) < 30_000_000


def test_a_check_without_flags_speaks_of_none(tmp_path: Path) -> None:
    check = Check(name="kind", prompt="What is it?", labels=("cat", "dog"), flags=())
    images = [Planted(name="a.png", label="cat", decision="clear")]
    page = Page(sheet(tmp_path, plant(tmp_path, tmp_path / "in", images, check)))
    assert "estimated chance, from 0 to 1, that the label shown is right" in page.text
    assert "flagged" not in page.text
    assert not {"f", "flag"} & set(page.words)  # a key, a decision
    assert {"r", "c"} <= set(page.words)
    assert "ahead of all others together" in score_in_words(check, ())


def test_every_stage_that_takes_seconds_of_a_device_or_of_threads_has_a_bar() -> None:
    spent = dict.fromkeys(SECONDS, 1.0)
    beside = {"threads", "wait", "under_way", "idle", "write"}  # sums of others, waiting, and the database
    drawn = charts.stages(StageTimes(sums=spent))
    assert [each.bar.title.split(":")[0] for each in drawn] == [charts.STAGES[name] for name in charts.STAGES]
    assert set(charts.STAGES) == set(SECONDS) - beside
    assert [each.bar.kind for each in drawn].count("thread") == 3


def test_every_colour_has_a_value_for_light_and_one_for_dark() -> None:
    css = CSS.read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert set(re.findall(r"var\(--(\w+)\)", css)) == set(light) == set(dark)
    assert all(light[name] != dark[name] for name in light)
    rest = re.sub(r":root \{.*?\}", "", css, flags=re.S)
    assert re.findall(r"#[0-9a-f]{3,6}\b", rest) == []  # no colour that dark mode does not change
    for name in ("ink", "soft", "flag", "review", "clear"):
        for theme in (light, dark):
            assert min(_contrast(theme[name], theme[ground]) for ground in ("ground", "card")) >= 4.5, name


def _contrast(one: str, other: str) -> float:
    """Of the Web Content Accessibility Guidelines 2: 4.5 is what text needs."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    letters = colour[1:] if len(colour) == 7 else "".join(2 * letter for letter in colour[1:])
    parts = [int(letters[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _card(uri: str, meta: dict[str, Any], picture: Picture | None = None) -> Any:
    given: dict[str, Any] = dict.fromkeys(("root", "etag", "size", "width", "height"))
    result = Result(
        image_id=1, scan="s", check="overlay", model="m", uri=uri, content_sha256="0" * 64, meta=meta, state="verdict",
        label="overlay", decision="flag", score=0.9, margin=1.0, **given,
    )  # fmt: skip
    return make_card(result, picture or Picture(), truth="none", said=None, fault=None)
