"""What to label next, on SQLite and PostgreSQL: which images each part takes, and that the random part is uniform."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.base import Base
from scanfleet.db.engine import connect, reading
from scanfleet.db.labels import disagreements
from scanfleet.db.labels.suggest import at_random, pool_of
from scanfleet.producer.labels.suggest import DEFAULT_MIX, PARTS, Suggestions, suggest, write_suggestions
from tests.rigs.verdict_rig import VerdictRig

CALIBRATOR = {"a": 2.0, "b": -1.0}


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


def chosen(
    rig: VerdictRig, n: int = 10, *, scan: str | None = None, mix: Mapping[str, float] = DEFAULT_MIX, seed: int = 0
) -> Suggestions:
    with reading(rig.engine) as connection:
        return suggest(connection, rig.check.name, scan_id=scan, n=n, mix=mix, seed=seed)


def only(part: str) -> dict[str, float]:
    return dict.fromkeys(PARTS, 0.0) | {part: 1.0}


def contents(found: Suggestions) -> set[str]:
    return {each.image.content_sha256 for each in found.images}


def margins(n: int) -> list[float]:
    draw = random.Random(1)
    return [draw.uniform(-8, 8) for _ in range(n)]


@pytest.mark.parametrize(
    ("scorer", "boundaries"),
    [
        ({}, (0.0,)),
        ({"calibrator": CALIBRATOR}, (0.5,)),
        ({"calibrator": CALIBRATOR, "thresholds": {"review": -3.0, "flag": 4.0}}, (-3.0, 4.0)),
        ({"thresholds": {"review": -3.0, "flag": None}}, (-3.0,)),
    ],
)
def test_images_near_the_threshold_of_their_scorer_are_taken(
    rig: VerdictRig, scorer: dict[str, object], boundaries: tuple[float, ...]
) -> None:
    rig.scan("a")
    given = margins(100)
    images = rig.verdicts("a", rig.scorer(**scorer), given)
    by_distance = sorted(zip(given, images, strict=True), key=lambda each: min(abs(each[0] - b) for b in boundaries))
    assert contents(chosen(rig, mix=only("threshold"))) == {image for _, image in by_distance[:10]}


def test_the_scorer_that_answered_last_says_what_is_near(rig: VerdictRig) -> None:
    rig.scan("old")
    old = rig.verdicts("old", rig.scorer("1"), [0.001] * 10)
    rig.scan("new")
    rig.verdicts("new", rig.scorer("2"), [5.0] * 10)  # the same contents: far from the threshold by now
    near = rig.verdicts("new", rig.scorer("2"), [0.5] * 10, first=500)
    assert contents(chosen(rig, mix=only("threshold"))) == set(near)
    assert set(old).isdisjoint(near)


def test_what_scorers_disagree_about_is_taken_the_widest_apart_first(each_rig: VerdictRig) -> None:
    old, new = each_rig.scorer("1"), each_rig.scorer("2", calibrator=CALIBRATOR)
    each_rig.scan("old")
    each_rig.verdicts("old", old, [2.0] * 50, scores=[0.9] * 50)
    each_rig.scan("new")
    apart = [-1.0] * 5 + [2.0] * 45
    images = each_rig.verdicts("new", new, apart, scores=[0.2] * 5 + [0.5] * 5 + [0.9] * 40)
    assert contents(chosen(each_rig, 5, mix=only("disagreement"))) == set(images[:5])
    assert contents(chosen(each_rig, 10, mix=only("disagreement"))) == set(images[:10])  # then gaps of probability
    found = chosen(each_rig, 12, mix=only("disagreement"))
    assert found.counts() == {"threshold": 0, "disagreement": 10, "diversity": 2, "random": 0}
    assert found.notes == ["disagreement: 10 of 12 found, the rest goes to diversity"]


@pytest.mark.parametrize("pivot", ["0" * 64, "8" + "0" * 63, "f" * 64])
def test_in_a_large_archive_the_disagreements_of_a_random_slice_are_enough(
    each_rig: VerdictRig, monkeypatch: pytest.MonkeyPatch, pivot: str
) -> None:
    monkeypatch.setattr(disagreements, "SLICE", 60)
    for name, margin in (("old", 2.0), ("new", -1.0)):
        each_rig.scan(name)
        images = each_rig.verdicts(name, each_rig.scorer(name), [margin] * 120, scores=[0.5] * 120)
    behind = sorted(images, key=lambda image: (image < pivot, image))
    with reading(each_rig.engine) as connection:
        pool = pool_of(connection, "overlay", scan_id=None)
        found = disagreements.disagreements(connection, pool, pivot=pivot, n=10)
        assert len(found) == 10
        assert set(found) <= set(behind[:50])  # a quarter of the contents, give or take
        assert set(disagreements.disagreements(connection, pool, pivot=pivot, n=110)) <= set(images)


def test_rare_disagreements_are_looked_for_in_the_whole_archive(
    each_rig: VerdictRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disagreements, "SLICE", 20)
    each_rig.scan("old")
    each_rig.verdicts("old", each_rig.scorer("1"), [2.0] * 100)
    each_rig.scan("new")
    images = each_rig.verdicts("new", each_rig.scorer("2"), [2.0] * 97 + [-1.0] * 3)
    assert contents(chosen(each_rig, 3, mix=only("disagreement"))) == set(images[97:])


def test_without_a_second_scorer_the_share_of_disagreement_goes_on_and_says_so(rig: VerdictRig) -> None:
    rig.scan("a")
    rig.verdicts("a", rig.scorer(), margins(100))
    found = chosen(rig, 20)
    assert found.counts() == {"threshold": 8, "disagreement": 0, "diversity": 6, "random": 6}
    assert found.notes == ["disagreement: 0 of 4 found, the rest goes to diversity"]


def test_unlike_images_are_taken_for_diversity(rig: VerdictRig) -> None:
    rig.scan("a")
    rig.verdicts("a", rig.scorer(), [1.0 + place / 10_000 for place in range(100)])
    odd = rig.verdicts("a", rig.scorer(), [-40.0, 40.0], first=900)
    assert contents(chosen(rig, 3, mix=only("diversity"))) >= set(odd)


def test_labelled_images_are_left_out_until_their_label_is_undone(each_rig: VerdictRig) -> None:
    each_rig.scan("a")
    images = each_rig.verdicts("a", each_rig.scorer(), margins(30))
    labels = [each_rig.label(image, "none") for image in images[:20]]
    found = chosen(each_rig, 100)
    assert contents(found) == set(images[20:])
    assert found.n_pool == 10
    each_rig.label(images[0], "none", undoes=labels[0])
    assert contents(chosen(each_rig, 100)) == {images[0], *images[20:]}


def test_labels_of_another_check_leave_nothing_out(rig: VerdictRig) -> None:
    rig.scan("a")
    (image,) = rig.verdicts("a", rig.scorer(), [1.0])
    rig.label(image, "knife", check_name="baggage")
    assert contents(chosen(rig)) == {image}


def test_no_content_comes_twice_and_the_newest_answer_is_shown(each_rig: VerdictRig) -> None:
    scorer = each_rig.scorer()
    for scan in ("a", "b"):
        each_rig.scan(scan)
        each_rig.verdicts(scan, scorer, margins(40))
    found = chosen(each_rig, 100)
    assert len(found.images) == len(contents(found)) == found.n_pool == 40
    assert {each.image.scan for each in found.images} == {"b"}
    assert {each.image.scan for each in chosen(each_rig, 100, scan="a").images} == {"a"}


def test_the_same_seed_gives_the_same_and_another_one_another_draw(rig: VerdictRig) -> None:
    rig.scan("a")
    rig.verdicts("a", rig.scorer(), margins(200))
    first = [each.record() for each in chosen(rig, 20, seed=3).images]
    assert first == [each.record() for each in chosen(rig, 20, seed=3).images]
    assert contents(chosen(rig, 20, seed=3, mix=only("random"))) != contents(
        chosen(rig, 20, seed=4, mix=only("random"))
    )


def test_every_image_has_the_same_chance_in_the_random_part_also_the_ones_near_the_threshold(rig: VerdictRig) -> None:
    rig.scan("a")
    images = rig.verdicts("a", rig.scorer("1"), [0.01] * 10 + [6.0] * 30)
    half = {"threshold": 0.5, "disagreement": 0.0, "diversity": 0.0, "random": 0.5}
    found = chosen(rig, 20, mix=half)
    drawn = {each.image.content_sha256 for each in found.images if each.drawn == "random"}
    assert {each.chance for each in found.images if each.drawn == "random"} == {0.25}
    assert {each.chance for each in found.images if each.drawn != "random"} == {None}
    hits: Counter[str] = Counter()
    with reading(rig.engine) as connection:
        pool = pool_of(connection, "overlay", scan_id=None)
        assert drawn == set(at_random(connection, pool, pivot=sha256(b"random 0").hexdigest(), n=10))
        for seed in range(100):
            one = at_random(connection, pool, pivot=sha256(b"%d" % seed).hexdigest(), n=10)
            assert len(set(one)) == 10
            hits.update(one)
    assert set(hits) == set(images)
    # The digests of these 40 are not evenly spaced: each one's chance is near a quarter, that of several is nearer.
    assert sum(hits[image] for image in images[:10]) == pytest.approx(250, rel=0.3)


def test_a_file_holds_what_a_person_and_the_import_need(rig: VerdictRig) -> None:
    rig.scan("a")
    (image,) = rig.verdicts("a", rig.scorer(), [1.5])
    found = chosen(rig, mix=only("random"))
    file = io.BytesIO()
    write_suggestions(found.images, file, form="csv")
    (row,) = csv.DictReader(io.StringIO(file.getvalue().decode()))
    assert row == {
        "uri": "/pictures/00000.jpg", "label": "", "drawn": "random", "inclusion_probability": "1.0",
        "answer": "overlay", "decision": "flag", "score": "", "margin": "1.5", "scan": "a", "content_sha256": image,
    }  # fmt: skip
    file = io.BytesIO()
    write_suggestions(found.images, file, form="jsonl")
    assert json.loads(file.getvalue())["inclusion_probability"] == 1.0
    file = io.BytesIO()
    write_suggestions(found.images, file, form="labelstudio")
    (task,) = json.loads(file.getvalue())
    assert (task["data"]["image"], task["data"]["drawn"]) == ("/data/local-files/?d=pictures/00000.jpg", "random")
    assert [one["value"] for one in task["predictions"][0]["result"]] == [{"choices": ["overlay"]}]


def test_a_ledger_without_answers_has_nothing_to_suggest(rig: VerdictRig) -> None:
    assert chosen(rig).images == []
