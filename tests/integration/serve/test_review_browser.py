"""Review as a person does it: a real browser, its keys, and the ledger afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

pytest.importorskip("fastapi")

from scanfleet.db.engine import transaction
from scanfleet.db.labels.labels import CurrentLabel, iter_current_labels
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Verdict, WebSession
from tests.rigs.live_server import live
from tests.rigs.serve_rig import Served, served
from tests.rigs.worker_rig import png
from tests.services import Browser

pytestmark = pytest.mark.slow

N_IMAGES = 34
SENT = "JSON.parse(localStorage['scanfleet.outbox.ana'] || '[]').length === 0"
SHOWN = "!document.getElementById('picture').hidden && document.getElementById('picture').complete"
URI = "document.getElementById('uri').textContent"
TROUBLE = "document.getElementById('trouble').textContent"


class Desk:
    """A server, and a browser that has logged in as ana."""

    def __init__(self, api: Served, address: str) -> None:
        self.api, self.address, self.token = api, address, api.token("ana", "review")

    def enter(self, browser: Browser, queue: str = "flagged", **window: int | bool) -> None:
        path = f"/review/overlay/{queue}"
        browser.complaints.clear()
        browser.open(f"{self.address}/login?next={path}", **window)
        browser.ask("localStorage.clear(); sessionStorage.clear()")
        self.log_in(browser)

    def log_in(self, browser: Browser) -> None:
        browser.ask(
            f"document.getElementById('token').value = '{self.token}'; document.querySelector('.card').submit()"
        )
        until(browser, f"document.getElementById('review') && {SHOWN}")

    def labels(self) -> list[CurrentLabel]:
        return list(iter_current_labels(self.api.rig.engine, "overlay"))


def until(browser: Browser, what: str) -> None:
    """Return when something holds in the page; a page that goes away is asked again."""
    look = f"new Promise(done => {{ const look = () => ({what}) ? done(true) : requestAnimationFrame(look); look(); }})"
    while True:
        try:
            browser.ask(look)
        except Exception as error:
            if "navigated" not in str(error) and "context" not in str(error):
                raise
        else:
            return


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    files = [tmp_path / f"{n}.png" for n in range(N_IMAGES)]
    for n, file in enumerate(files):
        file.write_bytes(png(n, width=64, height=48))
    with served(tmp_path / "data", serve_requests_per_minute=100_000) as api:
        api.rig.scan_listed([NewImage(uri=str(file), root=str(file.parent)) for file in files])
        api.rig.drain()
        with transaction(api.rig.engine) as connection:
            flag = {"decision": "flag", "label": "overlay", "score": 0.9}
            boxes = [{"x0": 8, "y0": 6, "x1": 40, "y1": 20, "label": "overlay", "score": 0.8}]
            connection.execute(sa.update(Verdict).values(flag | {"boxes": boxes}))
        with live(api.serving) as address:
            yield Desk(api, address)


def test_thirty_images_by_keyboard(desk: Desk, browser: Browser) -> None:
    desk.enter(browser)
    for n in range(30):
        until(browser, SHOWN)
        browser.press("a" if n % 3 else "3")
    browser.press("Backspace")
    browser.press("2")
    until(browser, SENT)
    said = Counter(label.label for label in desk.labels())
    assert said == {"overlay": 19, "none": 10, "natural": 1}
    assert all(label.who == "ana" and label.drawn == "flagged" and label.shown for label in desk.labels())
    assert not browser.complaints


def test_a_box_is_drawn(desk: Desk, browser: Browser) -> None:
    desk.enter(browser)
    browser.press("e")
    matrix = browser.ask("(m => [m.a, m.e, m.f])(document.getElementById('marks').getScreenCTM())")
    (x0, y0), (x1, y1) = ((matrix[0] * x + matrix[1], matrix[0] * y + matrix[2]) for x, y in ((10, 5), (50, 30)))
    for kind, x, y in (("mousePressed", x0, y0), ("mouseMoved", x1, y1), ("mouseReleased", x1, y1)):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    browser.press("a")
    until(browser, SENT)
    ((box,),) = [label.boxes for label in desk.labels()]
    assert [round(box[name]) for name in ("x0", "y0", "x1", "y1")] == [10, 5, 50, 30]


def test_a_session_that_ends_in_the_middle_loses_nothing(desk: Desk, browser: Browser) -> None:
    desk.enter(browser)
    browser.press("a")
    until(browser, SENT)
    with transaction(desk.api.rig.engine) as connection:
        connection.execute(sa.delete(WebSession))
    for key in "aa3":
        browser.press(key)
    until(browser, f"{TROUBLE}.includes('3 decisions are kept')")
    assert len(desk.labels()) == 1
    browser.ask("document.querySelector('#trouble a').click()")
    until(browser, "document.getElementById('token')")
    desk.log_in(browser)
    until(browser, SENT)
    assert Counter(label.label for label in desk.labels()) == {"overlay": 3, "none": 1}


def test_two_browsers_see_no_common_image(desk: Desk, browser: Browser) -> None:
    desk.enter(browser)
    with Browser() as other:
        desk.enter(other)
        seen: list[set[str]] = []
        for each in (browser, other):
            mine = set()
            for _ in range(5):
                until(each, SHOWN)
                mine.add(each.ask(URI))
                each.press("ArrowRight")
            seen.append(mine)
    assert len(seen[0]) == len(seen[1]) == 5
    assert not seen[0] & seen[1]


def test_many_at_once_in_the_grid(desk: Desk, browser: Browser) -> None:
    desk.enter(browser)
    browser.press("g")
    until(browser, "document.querySelectorAll('.cell').length > 12")
    press = "new MouseEvent('click', {{bubbles: true, shiftKey: {}}})"
    click = f"document.querySelectorAll('.cell')[{{}}].dispatchEvent({press})"
    for n, shift in ((1, "false"), (7, "true"), (3, "false")):
        browser.ask(click.format(n, shift))
    wanted = browser.ask("[...document.querySelectorAll('.cell[aria-pressed=true] img')].map(image => image.alt)")
    browser.press("a")
    until(browser, SENT)
    assert len(wanted) == 6
    assert sorted(label.uri for label in desk.labels()) == sorted(wanted)
    assert {label.label for label in desk.labels()} == {"overlay"}
    assert not browser.complaints
