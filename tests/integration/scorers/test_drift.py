"""Drift as computed in the ledger, on SQLite and PostgreSQL: synthetic verdicts in, figures and alarms out."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.base import Base
from scanfleet.db.drift.counts import BIN_WIDTH, count_cells, spread_batches, tallies_of
from scanfleet.db.drift.reference import alarms, alarms_of_scan, slices
from scanfleet.db.drift.uri_parts import By
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import promote, roll_back
from scanfleet.errors import UnknownName
from scanfleet.producer.training.drift import drift_of, record
from scanfleet.stats.counts import Slice
from scanfleet.stats.drift import judge
from scanfleet.stats.psi import edges_of_histogram
from tests.rigs.rescan_rig import archive, uri
from tests.rigs.verdict_rig import VerdictRig


def rig_at(database_url: str) -> Iterator[VerdictRig]:
    engine = connect(load_settings(database_url=database_url))
    Base.metadata.create_all(engine)
    yield VerdictRig(engine)
    engine.dispose()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[VerdictRig]:
    yield from rig_at(f"sqlite:///{tmp_path / 'scanfleet.db'}")


@pytest.fixture
def each_rig(database_url: str) -> Iterator[VerdictRig]:
    """On SQLite and on PostgreSQL, for queries that both must understand."""
    yield from rig_at(database_url)


def margins(seed: int, n: int = 300, *, mean: float = 0.0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 2.0) for _ in range(n)]


def found(rig: VerdictRig, *, by: By | None = None) -> dict[tuple[str, int, str | None], Slice]:
    with reading(rig.engine) as connection:
        return {(each.scan, each.scorer_id, each.source): each for each in slices(connection, rig.check.name, by=by)}


def alarming(rig: VerdictRig) -> list[str]:
    with reading(rig.engine) as connection:
        return alarms(connection, rig.check.name)


def test_a_later_scan_is_held_to_the_first_one_of_its_scorer(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    for scan, mean in (("first", 0.0), ("same", 0.0), ("moved", 2.0)):
        each_rig.scan(scan)
        each_rig.verdicts(scan, scorer, margins(len(scan), mean=mean))
    held = found(each_rig)
    first, same, moved = (held[name, scorer, None] for name in ("first", "same", "moved"))
    assert [scan for scan, _, _ in held] == ["moved", "same", "first"]
    assert (first.psi, first.reference) == (None, "scan first")
    assert first.tally.n == sum(first.tally.bins) == 300
    assert max(first.tally.bins) - min(first.tally.bins) <= 3  # bins are quantiles of the reference
    assert same.psi is not None
    assert same.psi < 0.15
    assert judge(same) == []
    assert moved.psi is not None
    assert moved.psi > 0.5
    (words,) = [each for each in alarming(each_rig) if "margins" in each]
    assert words.startswith("scan moved: margins moved: PSI")
    assert "against scan first" in words


def test_one_pass_counts_what_two_would_also_half_way_between_two_places(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    each_rig.scan("first")
    draw = random.Random(7)
    halves = [draw.randrange(-300, 300) / 128 for _ in range(300)]  # as bf16 has them
    each_rig.verdicts("first", scorer, [*halves, -1e5, 1e5])
    with reading(each_rig.engine) as connection:
        batches = spread_batches(connection, "first", limit=256)
        cells = count_cells(connection, "first", scorer, batches)
        edges = edges_of_histogram(cells.histogram(), width=BIN_WIDTH)
        tallies = tallies_of(connection, "first", [], scorer, edges, by=None, batches=batches)
    assert any(edge in halves for edge in edges)
    counted = cells.tally(edges)
    assert replace(counted, mean_mass=0.0) == replace(tallies[None], mean_mass=0.0)
    assert counted.mean_mass == pytest.approx(tallies[None].mean_mass)


def test_margins_of_different_scorers_never_meet(rig: VerdictRig) -> None:
    old, new = rig.scorer("1"), rig.scorer("2")
    rig.scan("before")
    rig.verdicts("before", old, margins(1))
    rig.scan("after")
    rig.verdicts("after", new, margins(2, mean=30.0))
    held = found(rig)
    assert held["after", new, None].reference == "scan after"
    assert held["after", new, None].psi is None
    assert alarming(rig) == []


def test_too_few_verdicts_do_not_alarm_and_say_so(rig: VerdictRig) -> None:
    scorer = rig.scorer()
    rig.scan("first")
    rig.verdicts("first", scorer, margins(1))
    rig.scan("small")
    rig.verdicts("small", scorer, margins(2, 60, mean=6.0))
    (finding,) = judge(found(rig)["small", scorer, None])
    assert (finding.level, "too few verdicts" in finding.words) == ("note", True)
    assert alarming(rig) == []


def test_a_first_scan_that_is_too_small_is_no_reference(rig: VerdictRig) -> None:
    scorer = rig.scorer()
    rig.scan("tiny")
    rig.verdicts("tiny", scorer, margins(1, 50, mean=9.0))
    assert found(rig)["tiny", scorer, None].reference is None
    rig.scan("large")
    rig.verdicts("large", scorer, margins(2))
    assert found(rig)["tiny", scorer, None].reference == "scan large"


def test_images_that_a_rescan_chose_count_nowhere(rig: VerdictRig) -> None:
    scorer = rig.scorer()
    rig.scan("band")
    rig.verdicts("band", scorer, [0.01] * 300, drawn="band")
    rig.scan("all")
    rig.verdicts("all", scorer, margins(1), first=1000, drawn="all")
    held = found(rig)
    assert ("band", scorer, None) not in held
    assert held["all", scorer, None].reference == "scan all"


@pytest.mark.slow
def test_going_back_and_forth_between_champions_is_no_drift(tmp_path: Path, database_url: str) -> None:
    given = {uri(number): margin for number, margin in enumerate(margins(1, 600))}
    with archive(tmp_path, database_url=database_url) as held:
        first = held.promote("a")
        scan = held.scan(len(given), given)
        with transaction(held.engine) as connection:
            roll_back(connection, held.check.name, "fake", why="test", who=None)
        held.rescan(scan, band=0.5, audit=0)
        held.work(given)
        with transaction(held.engine) as connection:
            promote(connection, first, kind="forced", why="test")
        partial = held.rescan(scan, everything=True)
        held.work(given)
        with reading(held.engine) as connection:
            counted = {each.scan for each in slices(connection, held.check.name)}
            assert alarms(connection, held.check.name) == []
            assert 0 < held.progress(partial).n_verdicts < len(given)
        assert counted == {scan}


@pytest.mark.slow
def test_a_rescan_of_every_answer_counts_and_ends_the_alarms_of_its_scan(tmp_path: Path, database_url: str) -> None:
    n = 400
    with archive(tmp_path, database_url=database_url) as held:
        held.promote("a")
        for seed, mean in ((1, 0.0), (2, 4.0)):
            given = {uri(number): margin for number, margin in enumerate(margins(seed, n, mean=mean))}
            scan = held.scan(n, given)
        with reading(held.engine) as connection:
            assert any("margins moved" in words for words in alarms_of_scan(connection, held.check.name, scan))
        held.promote("b")
        whole = held.rescan(scan, everything=True)
        held.write(held.must_claim(), given)
        with reading(held.engine) as connection:
            assert alarms_of_scan(connection, held.check.name, scan) == []
        held.work(given)
        with reading(held.engine) as connection:
            assert {each.scan: each.tally.n for each in slices(connection, held.check.name, scan_id=whole)} == {
                whole: n
            }


def test_sources_and_folders_are_separate(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    sources = ("/a", "s3://b/2026/ad")
    for scan, mean in (("first", 0.0), ("second", 3.0)):
        each_rig.scan(scan, sources=sources)
        each_rig.verdicts(scan, scorer, margins(1), folder="/a/x")
        each_rig.verdicts(scan, scorer, margins(2), folder="/a/y/z")
        each_rig.verdicts(scan, scorer, margins(3, mean=mean), folder="s3://b/2026/ads")
        each_rig.verdicts(scan, scorer, margins(4, 5), folder="/elsewhere")
    by_source = found(each_rig, by="source")
    assert {source for _, _, source in by_source} == {None, "/a", "s3://b/2026/ad", "other"}
    moved, still = by_source["second", scorer, "s3://b/2026/ad"], by_source["second", scorer, "/a"]
    assert (moved.reference, still.reference) == ("scan first, s3://b/2026/ad", "scan first, /a")
    assert still.psi == pytest.approx(0)
    assert [each.level for each in judge(moved)] == ["alarm", "watch"]
    by_folder = found(each_rig, by=1)
    assert {source for _, _, source in by_folder} == {None, "/a/x/", "/a/y/", "s3://b/2026/ads/", "/"}
    assert by_folder["second", scorer, "/"].reference == "scan first"  # its own part of the reference is too small
    assert {source for _, _, source in found(each_rig, by=2)} == {
        None,
        "/a/x/",
        "/a/y/z/",
        "s3://b/2026/ads/",
        "/elsewhere/",
    }


def test_little_label_mass_alarms_in_the_first_scan_already(rig: VerdictRig) -> None:
    info = {"check_hash": "h", "base_model": "fake", "base_revision": "1", "uri": "/x", "weights_sha256": "a" * 64}
    with transaction(rig.engine) as connection:
        adapter = register_adapter(connection, AdapterInfo(check_name="overlay", **info))
    rig.scan("first")
    rig.verdicts("first", rig.scorer(adapter_id=adapter), margins(1), mass=0.5)
    (words,) = alarming(rig)
    assert "100.0% of the verdicts have a label mass under 0.9 (mean 0.50)" in words


def test_little_label_mass_of_the_base_alone_is_no_drift(rig: VerdictRig) -> None:
    rig.scan("first")
    rig.verdicts("first", rig.scorer(), margins(1), mass=0.5)
    assert alarming(rig) == []
    with reading(rig.engine) as connection:
        assert alarms_of_scan(connection, rig.check.name, "first") == []
        (drift,) = drift_of(connection, check_name=rig.check.name, scan_id=None, by=None)
    assert drift.findings == []


def test_a_look_at_part_of_a_scan_sees_what_the_whole_shows(rig: VerdictRig) -> None:
    scorer = rig.scorer()
    for scan, mean in (("first", 0.0), ("moved", 2.0)):
        rig.scan(scan)
        rig.verdicts(scan, scorer, margins(len(scan), 1500, mean=mean))
    with reading(rig.engine) as connection:
        part = {each.scan: each for each in slices(connection, rig.check.name, max_batches=6)}["moved"]
    assert part.tally.n == 300  # every fifth batch of 50
    assert part.psi == pytest.approx(found(rig)["moved", scorer, None].psi, rel=0.25)


def test_people_correct_what_they_were_shown(each_rig: VerdictRig) -> None:
    each_rig.scan("first")
    images = each_rig.verdicts("first", each_rig.scorer(), margins(1, 200))
    for place, image in enumerate(images[:100]):
        wrong = place < 45
        each_rig.label(
            image, "overlay" if wrong else "none", shown="clear", drawn="random" if place % 2 else "threshold"
        )
    each_rig.label(images[100], "overlay")  # nobody saw an answer
    disputed = each_rig.label(images[101], "none", shown="flag", drawn="random")
    each_rig.label(images[101], "overlay", shown="flag", drawn="random", who="bob")  # a conflict: counts nowhere
    undone = each_rig.label(images[102], "overlay", shown="clear", drawn="random")
    each_rig.label(images[102], "overlay", undoes=undone)
    assert disputed != undone
    with reading(each_rig.engine) as connection:
        (drift,) = drift_of(connection, check_name="overlay", scan_id="first", by=None)
    of_all, of_random = drift.labels
    assert (of_all.overridden.k, of_all.overridden.n) == (45, 100)
    assert (of_random.overridden.k, of_random.overridden.n) == (22, 50)
    assert (of_random.missed.k, of_random.missed.n) == (22, 50)
    assert (of_random.recall.k, of_random.recall.n) == (0, 22)
    assert (of_random.positive.k, of_random.positive.n) == (22, 50)
    assert record(drift)["labels"][1]["overridden"]["value"] == 0.44
    assert record(drift)["labels"][1]["positive"]["value"] == 0.44
    (words,) = alarming(each_rig)
    assert words.startswith("check overlay: people correct 44.0% (22 of 50; 95 % interval")


def test_a_champion_that_was_replaced_alarms_nobody(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    for scan, mean in (("first", 0.0), ("moved", 3.0)):
        each_rig.scan(scan)
        images = each_rig.verdicts(scan, scorer, margins(1, mean=mean))
    for image in images[:60]:
        each_rig.label(image, "overlay", shown="clear", drawn="random")
    assert len(alarming(each_rig)) == 3  # margins; corrections, recall
    info = {"check_hash": "h", "base_model": "fake", "base_revision": "1", "uri": "/x", "weights_sha256": "a" * 64}
    with transaction(each_rig.engine) as connection:
        promote(
            connection, register_adapter(connection, AdapterInfo(check_name="overlay", **info)), kind="forced", why="t"
        )
    assert alarming(each_rig) == []


def test_a_scan_or_check_that_is_not_there_is_named(rig: VerdictRig) -> None:
    with reading(rig.engine) as connection:
        for wanted in ({"check_name": "none", "scan_id": None}, {"check_name": None, "scan_id": "none"}):
            with pytest.raises(UnknownName):
                list(drift_of(connection, by=None, **wanted))
        (drift,) = drift_of(connection, check_name="overlay", scan_id=None, by=None)
    assert drift.slices == []


def test_queries_of_a_look_are_bounded(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    for scan in ("a", "b", "c", "d"):
        each_rig.scan(scan)
        each_rig.verdicts(scan, scorer, margins(1, 200))
    statements: list[str] = []
    sa.event.listen(each_rig.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert alarming(each_rig) == []
    assert sum("FROM verdicts" in each for each in statements) <= 5  # reference: two; two scans: one each


def test_a_first_scan_is_held_to_the_margins_of_the_calibration(rig: VerdictRig) -> None:
    """Whatever its share of positives, as long as both kinds have the margins that they had."""
    edges = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    held = {"edges": edges, "span": [-9.0, 9.0], "positive": [1, 2, 5, 12, 30, 25, 15, 10]}
    held["negative"] = list(reversed(held["positive"]))
    info = {"check_hash": "h", "base_model": "fake", "base_revision": "1", "uri": "/x", "metrics": {"margins": held}}
    with transaction(rig.engine) as connection:
        adapter = register_adapter(connection, AdapterInfo(check_name="overlay", weights_sha256="a" * 64, **info))
    places = [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    rare = [place for place, n in zip(places, held["negative"], strict=True) for _ in range(4 * n)]
    for number, (given, words) in enumerate(
        (
            (rare, None),
            ([*rare, *[12.0] * 50], "outside all of the calibration's"),
            ([0.5, -0.5] * 200, "like no mixture"),
        )
    ):
        scan = rig.scan(f"scan{number}")
        rig.verdicts(scan, rig.scorer(str(number), adapter_id=adapter), given)
        (slice_,) = [each for each in found(rig).values() if each.scan == scan]
        watched = [each.words for each in judge(slice_) if each.level == "watch"]
        assert (words is None) == (not watched)
        assert words is None or words in watched[0]
    assert alarming(rig) == []
