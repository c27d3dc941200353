"""Which images a contact sheet shows, in which order, and what it counts as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from scanfleet.db.results.brief import Brief, iter_brief
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.sheet.selection import KINDS, Order, Sheet, Tally, Wanted, fair_shares
from scanfleet.producer.reports.sheet.truth import Said, fault, labels_by_content
from tests.helpers.cli_call import scanfleet
from tests.rigs.sheet_rig import Planted, plant
from tests.unit.producer.reports.test_sheet_page import Page

FLAGS = ("gun", "knife")


@pytest.mark.parametrize(
    ("truth", "label", "decision", "found"),
    [
        ("gun", "gun", "flag", None),
        ("gun", "knife", "flag", "wrong label"),
        ("gun", "none", "clear", "missed"),
        ("gun", "gun", "clear", "missed"),  # the label may flag where all labels together do not
        ("none", "gun", "flag", "false alarm"),
        ("none", "none", "flag", "false alarm"),
        ("none", "empty", "clear", "wrong label"),
        ("gun", "none", "review", None),
    ],
)
def test_what_contradicts_an_answer(truth: str, label: str, decision: str, found: str | None) -> None:
    assert fault(truth, label=label, decision=decision, flags=FLAGS) == found


@pytest.mark.parametrize(("limit", "counts"), [(10, [1, 20, 6]), (7, [20, 20, 20]), (5, [1, 1]), (1, [3, 3]), (9, [])])
def test_shares_are_fair_and_use_the_limit(limit: int, counts: list[int]) -> None:
    shares = fair_shares(limit, counts)
    assert sum(shares) == min(limit, sum(counts))
    assert all(share <= count for share, count in zip(shares, counts, strict=True))
    cut = [share for share, count in zip(shares, counts, strict=True) if share < count]
    assert all(share >= max(shares) - 1 for share in cut)  # who gets less than it wants gets no less than others


def image(
    number: int, decision: str | None, margin: float, *, label: str = "overlay", truth: str | None = None
) -> Brief:
    return Brief(
        image_id=number,
        uri=f"/{number}.png",
        state="failed" if decision is None else "verdict",
        content_sha256=f"sha-{number}",
        meta={"truth": truth},
        label=None if decision is None else label,
        decision=decision,
        score=None if decision is None else round(0.5 + margin / 10, 3),
        margin=None if decision is None else margin,
        stage="decode" if decision is None else None,
        reason="truncated" if decision is None else None,
    )


IMAGES = (
    image(1, "flag", 3.0, truth="overlay"),
    image(2, "flag", 4.0, truth="overlay"),
    image(3, "flag", 2.0, truth="none"),
    image(4, "review", 0.5, truth="none"),
    image(5, "review", -0.25, truth="overlay"),
    image(6, "clear", -3.0, label="none", truth="overlay"),
    image(7, "clear", -4.0, label="none", truth="overlay"),
    image(8, "clear", -1.0, label="none", truth="none"),
    image(9, "clear", -2.0, label="none", truth="a word of another check"),
    image(10, None, 0.0, truth="overlay"),
)


def chosen(wanted: ResultFilter | None = None, *, limit: int = 100, **more: object) -> dict[str, list[int]]:
    request = Wanted(filter=wanted or ResultFilter(), limit=limit, **({"truth": "truth"} | more))  # type: ignore[arg-type]
    sheet = Sheet(load_check("overlay"), request, {})
    for each in IMAGES:
        sheet.add(each)
    return sheet.chosen()


def test_wrong_ones_then_reviews_then_flags_and_nothing_twice() -> None:
    assert chosen() == {"wrong": [7, 6, 3], "review": [4, 5], "flag": [2, 1]}
    assert list(chosen()) == [kind for kind in KINDS if kind in chosen()]
    assert chosen(truth=None) == {"review": [4, 5], "flag": [2, 1, 3]}


def test_a_limit_is_shared_among_the_kinds() -> None:
    assert chosen(limit=4) == {"wrong": [7, 6], "review": [4], "flag": [2]}


@pytest.mark.parametrize(
    ("order", "flags"), [("score", [2, 1, 3]), ("lowest", [3, 1, 2]), ("doubt", [3, 1, 2]), ("name", [1, 2, 3])]
)
def test_orders(order: Order, flags: list[int]) -> None:
    assert chosen(order=order, truth=None)["flag"] == flags


def test_conditions_on_the_answer_show_all_that_match() -> None:
    assert chosen(ResultFilter(decision="clear")) == {"wrong": [7, 6], "clear": [8, 9]}
    assert chosen(ResultFilter(label="none", max_score=0.2), truth=None) == {"clear": [6, 7]}
    assert chosen(ResultFilter(min_score=0.75), truth=None) == {"flag": [2, 1]}
    assert chosen(ResultFilter(state="failed")) == {"other": [10]}
    assert chosen(ResultFilter(reason=("truncated",))) == {"other": [10]}
    assert Wanted(filter=ResultFilter(reason="truncated"), limit=1).scope == ResultFilter()  # figures of all images
    assert chosen(wrong=True) == {"wrong": [7, 6, 3]}


def test_labels_contradict_as_the_truth_does_and_the_worse_counts() -> None:
    said = {"sha-8": "overlay", "sha-1": "none", "sha-6": "none", "sha-2": "overlay"}
    labels = {
        sha: Said(label=label, who="eva", drawn="random" if sha == "sha-8" else None) for sha, label in said.items()
    }
    sheet = Sheet(load_check("overlay"), Wanted(filter=ResultFilter(), truth="truth", wrong=True, limit=100), labels)
    for each in IMAGES:
        sheet.add(each)
    assert sheet.chosen() == {"wrong": [7, 6, 8, 1, 3]}
    assert sheet.tally.faults == {"missed": 3, "false alarm": 2}
    assert (sheet.by_label.precision("flag").k, sheet.by_label.precision("flag").n) == (1, 2)
    assert sum(sheet.by_random_label.cells.values()) == 1


def test_counts_are_of_all_images_whatever_is_shown() -> None:
    tally = Tally()
    for each in IMAGES:
        tally.add(each)
    assert (tally.n_images, tally.states["failed"], [tally.decided(each) for each in ("flag", "review", "clear")]) == (
        10,
        1,
        [3, 2, 4],
    )
    assert sum(tally.scores.values()) == sum(tally.margins.values()) == 9


def test_memory_is_bounded_by_the_limit() -> None:
    sheet = Sheet(load_check("overlay"), Wanted(filter=ResultFilter(), limit=3), {})
    for number in range(9000):
        sheet.add(image(number, "flag", number / 2000))
    assert len(sheet._kinds["flag"]._held) < 3000
    assert (sheet.matching(), sheet.chosen()) == ({"flag": 9000}, {"flag": [8999, 8998, 8997]})


def test_a_sheet_of_a_ledger_uses_the_labels_on_which_people_agree(tmp_path: Path) -> None:
    names = [f"{name}.png" for name in "abcd"]
    scan = plant(tmp_path, tmp_path / "in", [Planted(name=name, decision="clear", label="none") for name in names])
    engine = connect(load_settings(data_dir=tmp_path))
    shas = {Path(each.uri).name: str(each.content_sha256) for each in iter_results(engine, ResultFilter(scan=scan))}
    for name, label, who in (
        ("a.png", "overlay", "eva"),
        ("b.png", "none", "eva"),
        ("c.png", "overlay", "eva"),
        ("c.png", "none", "jo"),
    ):
        _label(tmp_path, tmp_path / "in" / name, label, who)
    assert set(labels_by_content(engine, "overlay")) == {shas["a.png"], shas["b.png"]}
    path = tmp_path / "sheet.html"
    assert write_report(engine, load_settings(data_dir=tmp_path), scan, path, wrong=True) == 1
    engine.dispose()
    page = Page(path.read_text(encoding="utf-8"))
    assert [each["data-name"] for each in page.all("li", **{"class": "card"})] == ["a.png"]
    assert "label: overlay by eva" in page.text
    assert "Against people's labels" in page.text


def _label(data_dir: Path, path: Path, label: str, who: str) -> None:
    arguments = ("labels", "add", path, label, "--check", "overlay", "--who", who)
    added = scanfleet(*arguments, data_dir=data_dir)
    assert added.returncode == 0, added.stderr


def test_other_filters_narrow_the_figures_and_say_so(tmp_path: Path) -> None:
    images = [Planted(name=f"{client}/{number}.png") for client in ("acme", "globex") for number in range(3)]
    scan = plant(tmp_path, tmp_path / "in", images)
    path, prefix = tmp_path / "sheet.html", f"{tmp_path}/in/acme/"
    assert scanfleet("scans", "report", scan, "-o", path, "--prefix", prefix, data_dir=tmp_path).returncode == 0
    page = Page(path.read_text(encoding="utf-8"))
    assert "3 images" in page.text
    assert f"Only images with prefix {prefix}." in page.text
    assert "globex" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--wrong",), "nothing is known to be true"),
        (("--truth", "no such column"), "has a label of the check in that column"),
    ],
)
def test_a_truth_that_is_not_there_is_refused_on_one_line(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    scan = plant(tmp_path, tmp_path / "in", [Planted(name="a.png")])
    found = scanfleet("scans", "report", scan, "-o", "sheet.html", *options, data_dir=tmp_path)
    assert (found.returncode, words in found.stderr, found.stderr.count("\n")) == (2, True, 1)
    assert not (tmp_path / "sheet.html").exists()


def test_briefs_are_the_results_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanfleet.db.results.brief.PAGE_IMAGES", 2)
    scan = plant(
        tmp_path, tmp_path / "in", [Planted(name=f"{n}.png", decision=None if n == 3 else "flag") for n in range(5)]
    )
    engine = connect(load_settings(data_dir=tmp_path))
    brief = list(iter_brief(engine, ResultFilter(scan=scan)))
    full = list(iter_results(engine, ResultFilter(scan=scan)))
    engine.dispose()
    assert [(one.image_id, one.uri, one.decision, one.margin) for one in brief] == [
        (one.image_id, one.uri, one.decision, one.margin) for one in full
    ]
    assert [one.reason for one in brief] == [None, None, None, "truncated", None]
