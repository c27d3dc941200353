"""Which labels stand, on SQLite and on PostgreSQL: held against the rule written down once more, in plain Python."""

import hashlib
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, now, transaction
from scanfleet.db.labels import labels as store
from scanfleet.db.labels.clusters import SeenImage, split_of
from scanfleet.db.labels.history import LabelFilter, iter_conflicts, iter_labels, undo_labels
from scanfleet.db.labels.labels import NewLabel, add_labels, current_labels, iter_current_labels
from scanfleet.db.labels.queries import PINNED, SYNTHETIC, split_for
from scanfleet.db.labels.splits import add_images
from scanfleet.db.tables import Label, LabelledImage
from scanfleet.errors import UnknownName
from tests.helpers.migrated import upgrade

CHECK = "overlay"
BOX = {"x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0, "label": "overlay"}


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path))
    upgrade(engine)
    yield engine
    engine.dispose()


def place(connection: sa.Connection, *names: str, split: str = "train") -> None:
    rows = [
        {
            "content_sha256": name,
            "uri": f"/a/{name}",
            "root": "/a",
            "width": 8,
            "height": 9,
            "phash": "0",
            "cluster": name,
            "split": split,
            "added_at": now(connection),
        }
        for name in names
    ]
    connection.execute(sa.insert(LabelledImage), rows)


def say(connection: sa.Connection, image: str, label: str, who: str, **more: Any) -> list[int]:
    new = NewLabel(content_sha256=image, label=label, who=who, **({"origin": "person"} | more))
    return add_labels(connection, CHECK, [new])


def undo(connection: sa.Connection, *ids: int) -> int:
    return undo_labels(connection, LabelFilter(ids=ids), who="boss")


def test_generated_images_start_no_training_and_stay_generated(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place(connection, "drawn", "seen")
        say(connection, "drawn", "overlay", "scanfleet", origin=SYNTHETIC)
        say(connection, "seen", "overlay", "ann")
        assert store.count_since(connection, CHECK, 0) == 1
        say(connection, "drawn", "overlay", "ann")
        assert store.count_since(connection, CHECK, 0) == 1
        found = {one.content_sha256: one.synthetic for one in current_labels(connection, CHECK)}
    assert found == {"drawn": True, "seen": False}


# The rule, in plain Python.

Event = tuple[str, str, str, str, bool]  # what, image, who, label, settles
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "undo"]),
        st.sampled_from("pq"),
        st.sampled_from(["ann", "bob", "cid"]),
        st.sampled_from(["overlay", "none"]),
        st.booleans(),
    ),
    max_size=14,
)


def stands(rows: list[dict[str, Any]], image: str) -> str | None:
    undone = {row["undoes"] for row in rows}
    alive = [row for row in rows if row["image"] == image and row["undoes"] is None and row["id"] not in undone]
    newest = {row["who"]: row for row in alive}
    settled = max((row["id"] for row in alive if row["settles"]), default=0)
    said = {row["label"] for row in newest.values() if row["id"] >= settled}
    return said.pop() if len(said) == 1 else None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_what_stands_is_what_the_rule_says(engine: sa.Engine, events: list[Event]) -> None:
    follow(engine, events)


FIXED: list[list[Event]] = [
    [("say", "p", "ann", "overlay", False), ("say", "p", "bob", "none", False), ("say", "p", "cid", "none", True)],
    [("say", "p", "ann", "overlay", True), ("say", "p", "bob", "none", False), ("say", "p", "bob", "overlay", False)],
    [("say", "p", "ann", "overlay", False), ("say", "p", "ann", "none", False), ("undo", "p", "ann", "none", False)],
    [("say", "q", "ann", "none", True), ("say", "q", "bob", "overlay", True), ("undo", "q", "bob", "overlay", False)],
]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_stands_is_what_the_rule_says_on_postgresql(engine: sa.Engine) -> None:
    for events in FIXED:
        follow(engine, events)


def follow(engine: sa.Engine, events: list[Event]) -> None:
    """Run the events, and compare after each step; afterwards also the past states by `up_to`."""
    with transaction(engine) as connection:
        connection.execute(sa.delete(Label))
        connection.execute(sa.delete(LabelledImage))
        place(connection, "p", "q")
        rows: list[dict[str, Any]] = []
        past: list[tuple[int, dict[str, str | None]]] = []
        for what, image, who, label, settles in events:
            if what == "undo":
                target = next((row for row in reversed(rows) if row["image"] == image and row["undoes"] is None), None)
                if target is None or not undo(connection, target["id"]):
                    continue
                newest = store.newest_label(connection, CHECK)
                rows.append({"id": newest, "image": image, "who": "boss", "undoes": target["id"], "settles": False})
            elif added := say(connection, image, label, who, settles=settles):
                rows.append(
                    {"id": added[0], "image": image, "who": who, "label": label, "settles": settles, "undoes": None}
                )
            expected = {name: stands(rows, name) for name in "pq"}
            found = {one.content_sha256: one.label for one in current_labels(connection, CHECK)}
            assert found == {name: label for name, label in expected.items() if label is not None}
            past.append((store.newest_label(connection, CHECK), expected))
        for newest, expected in past:
            found = {one.content_sha256: one.label for one in current_labels(connection, CHECK, up_to=newest)}
            assert found == {name: label for name, label in expected.items() if label is not None}


def test_pages_skip_what_does_not_stand_and_miss_nothing(engine: sa.Engine) -> None:
    names = [f"{number:02}" for number in range(12)]
    with transaction(engine) as connection:
        place(connection, *names)
        for name in names:
            say(connection, name, "overlay", "ann")
        for name in names[2:7]:
            say(connection, name, "none", "bob")  # a run of conflicts, longer than a page
        pages, after = [], ""
        while page := current_labels(connection, CHECK, after=after, limit=3):
            pages.append([one.content_sha256 for one in page])
            after = page[-1].content_sha256
    assert pages == [["00", "01", "07"], ["08", "09", "10"], ["11"]]
    assert [one.content_sha256 for one in iter_current_labels(engine, CHECK)] == list(chain(*pages))
    assert [conflict.content_sha256 for conflict in iter_conflicts(engine, CHECK)] == names[2:7]


def test_a_label_that_stands_carries_its_image_and_the_boxes_of_whoever_drew_some(engine: sa.Engine) -> None:
    shown = {"label": "none", "decision": "clear", "score": None, "margin": -1.5, "scorer": 3}
    with transaction(engine) as connection:
        place(connection, "a", split="calibration")
        (drawn,) = say(connection, "a", "overlay", "ann", boxes=[BOX], shown=shown, drawn="random", note="n")
        say(connection, "a", "overlay", "bob")
        (one,) = current_labels(connection, CHECK)
    assert (one.label_id, one.who, one.boxes, one.shown, one.drawn, one.note) == (
        drawn, "ann", [BOX], shown, "random", "n",
    )  # fmt: skip
    assert (one.uri, one.root, one.width, one.height, one.cluster, one.split) == (
        "/a/a", "/a", 8, 9, "a", "calibration",
    )  # fmt: skip


def test_the_same_label_again_adds_nothing(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place(connection, "a")
        assert len(say(connection, "a", "overlay", "ann", boxes=[BOX])) == 1
        assert say(connection, "a", "overlay", "ann", boxes=[BOX], note="again") == []
        assert len(say(connection, "a", "overlay", "ann", boxes=[])) == 1
        assert len(say(connection, "a", "overlay", "bob", boxes=[])) == 1
        assert len(say(connection, "a", "overlay", "bob", boxes=[], settles=True)) == 1
        twice = [NewLabel(content_sha256="a", label=label, who="cid", origin="import") for label in ("x", "x", "y")]
        assert len(add_labels(connection, CHECK, twice)) == 2
        (last,) = say(connection, "a", "z", "cid")
        undo(connection, last)
        assert say(connection, "a", "y", "cid") == []  # the earlier label counts again
        assert len(say(connection, "a", "z", "cid")) == 1


def test_counting_what_is_new(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place(connection, "a", "b", "c")
        assert store.newest_label(connection, CHECK) == 0
        say(connection, "a", "overlay", "ann")
        since = store.newest_label(connection, CHECK)
        assert store.count_since(connection, CHECK, 0) == 1
        assert store.count_since(connection, CHECK, since) == 0
        say(connection, "b", "overlay", "ann")
        (doubt,) = say(connection, "c", "overlay", "ann")
        say(connection, "c", "none", "bob")
        add_labels(connection, "baggage", [NewLabel(content_sha256="a", label="gun", who="ann", origin="person")])
        assert store.count_since(connection, CHECK, since) == 1
        undo(connection, doubt)
        assert store.count_since(connection, CHECK, since) == 2
        assert store.labelled_checks(connection) == ["baggage", "overlay"]
        assert set(store.current_label_of(connection, CHECK, ["a", "c", "z"])) == {"a", "c"}


def test_history_says_what_became_of_each_label(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place(connection, "a", "b")
        say(connection, "a", "overlay", "ann")
        say(connection, "a", "none", "ann")
        say(connection, "b", "none", "ann")
        (wrong,) = say(connection, "b", "none", "bob")
        say(connection, "b", "overlay", "cid")
        assert undo(connection, wrong) == 1
        assert undo(connection, wrong) == 0
        with pytest.raises(UnknownName, match="999"):
            undo(connection, 999)
        with pytest.raises(UnknownName):
            undo(connection, store.newest_label(connection, CHECK))  # an undoing is no label
    found = list(iter_labels(engine, LabelFilter()))
    assert [(line.content_sha256, line.label, line.who, line.state) for line in found] == [
        ("b", "overlay", "cid", "conflict"),
        ("b", "none", "bob", "undone"),
        ("b", "none", "ann", "conflict"),
        ("a", "none", "ann", "counts"),
        ("a", "overlay", "ann", "replaced"),
    ]
    assert [line.id for line in iter_labels(engine, LabelFilter(who="ann"), limit=2)] == [found[2].id, found[3].id]
    assert list(iter_labels(engine, LabelFilter(split="golden"))) == []
    assert len(list(iter_labels(engine, LabelFilter(split="train", label="none", check_name=CHECK)))) == 3
    (conflict,) = iter_conflicts(engine, CHECK)
    assert [(line.who, line.label) for line in conflict.labels] == [("ann", "none"), ("cid", "overlay")]


def test_everything_of_a_person_since_a_moment_is_taken_back_at_once(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place(connection, "a", "b")
        say(connection, "a", "overlay", "ann")
        say(connection, "a", "none", "bob")
        say(connection, "b", "none", "bob")
        start = now(connection)
        assert undo_labels(connection, LabelFilter(who="bob", since=start + timedelta(hours=1)), who="x") == 0
        assert undo_labels(connection, LabelFilter(who="bob", since=start - timedelta(hours=1)), who="x") == 2
        assert [one.content_sha256 for one in current_labels(connection, CHECK)] == ["a"]


# Where images go.


def seen(name: str, phash: int = 0, *, group: str | None = None) -> SeenImage:
    more = {"root": None, "etag": None, "width": 8, "height": 8}
    return SeenImage(content_sha256=name, uri=f"s3://b/{name}", phash=f"{phash:016x}", group=group, **more)


FAR = [0x0F0F << 40, 0xFFFF_FFFF, 0xAAAA_AAAA_AAAA_AAAA, 0x3333_0000_CCCC_1111]  # no two alike


def place_one(connection: sa.Connection, image: SeenImage, **more: Any) -> Any:
    return add_images(connection, CHECK, [image], **more)[image.content_sha256]


def test_a_newcomer_joins_what_it_resembles_or_belongs_to(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        first = place_one(connection, seen("a", FAR[0], group="bag"), wanted="threshold")
        twin = place_one(connection, seen("b", FAR[0] ^ 0b111))
        mate = place_one(connection, seen("c", FAR[1], group="bag"))
        mate_of_twin = place_one(connection, seen("d", FAR[1] ^ 0b111))
        other = place_one(connection, seen("e", FAR[2], group="purse"))
    assert {twin.cluster, mate.cluster, mate_of_twin.cluster} == {first.cluster}
    assert {place.split for place in (first, twin, mate, mate_of_twin)} == {"threshold"}
    assert (first.near, twin.near, mate.near, mate_of_twin.near) == (False, True, False, True)
    assert other.cluster != first.cluster
    assert other.split == split_of(other.cluster)


def test_what_lies_between_splits_is_used_for_nothing_and_moves_nothing(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        place_one(connection, seen("a", FAR[0]), wanted="train")
        place_one(connection, seen("b", FAR[1], group="bag"), wanted="golden")
        both = add_images(connection, CHECK, [seen("c", FAR[0] ^ 1, group="bag"), seen("d", FAR[2], group="bag")])
        rows = connection.execute(sa.select(LabelledImage.content_sha256, LabelledImage.split)).all()
    assert [both[name].split for name in "cd"] == ["none", "none"]
    assert {row.content_sha256: row.split for row in rows} == {"a": "train", "b": "golden", "c": "none", "d": "none"}


def test_splits_are_for_good_and_in_the_given_shares(engine: sa.Engine) -> None:
    dice = random.Random(5)
    images = [seen(f"{number:04}", dice.getrandbits(64)) for number in range(600)]
    with transaction(engine) as connection:
        before = add_images(connection, CHECK, images[:300])
        add_images(connection, CHECK, images[300:])
        again = add_images(connection, CHECK, images[:300], wanted="golden")
    assert {name: place.split for name, place in again.items()} == {
        name: place.stored for name, place in before.items()
    }
    assert all(place.refused == (place.split != "golden") for place in again.values())
    drawn = [split_of(f"look-{number}") for number in range(20_000)]
    shares = {split: drawn.count(split) / len(drawn) for split in set(drawn)}
    assert shares == pytest.approx({"train": 0.6, "calibration": 0.15, "threshold": 0.1, "golden": 0.15}, abs=0.01)


IS_D = sa.and_(LabelledImage.content_sha256 == Label.content_sha256, Label.content_sha256 == "d")


def golden_by_hash() -> Iterator[str]:
    return (name for name in map(str, range(1000)) if split_of(f"group-{_digest(name)}") == "golden")


def _digest(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()[:16]


def test_a_golden_set_that_people_chose_grows_by_their_choice_alone(engine: sa.Engine) -> None:
    names = golden_by_hash()
    one, two, three = next(names), next(names), next(names)
    with transaction(engine) as connection:
        by_hash = place_one(connection, seen("a", FAR[0], group=one))
        assert by_hash.split == "golden"
        say(connection, "a", "none", "ann")
        assert current_labels(connection, CHECK)[0].split == "golden"

        chosen = place_one(connection, seen("b", FAR[1], group=two), wanted="golden")
        say(connection, "b", "none", "ann", origin=PINNED)
        assert (chosen.split, chosen.refused) == ("golden", False)

        poison = place_one(connection, seen("c", FAR[2], group=three))
        like_golden = place_one(connection, seen("d", FAR[1] ^ 1))
        assert (poison.split, poison.stored) == ("train", "train")
        assert (like_golden.split, like_golden.stored) == ("none", "golden")  # in train it would leak
        for name in "cd":
            say(connection, name, "overlay", "eve")
        splits = {one.content_sha256: one.split for one in current_labels(connection, CHECK)}
        assert splits == {"a": "none", "b": "golden", "c": "train", "d": "none"}
        assert connection.execute(sa.select(split_for(Label.check_name)).join(Label, IS_D)).scalar_one() == "none"

        # another check has its own eyes
        add_labels(connection, "flowers", [NewLabel(content_sha256="a", label="rose", who="ann", origin="person")])
        assert current_labels(connection, "flowers")[0].split == "golden"

        # one may choose what was golden by its hash, and correct a label of what was chosen
        again = place_one(connection, seen("a", FAR[0], group=one), wanted="golden")
        assert (again.split, again.refused) == ("golden", False)
        assert len(say(connection, "a", "none", "ann", origin=PINNED)) == 1
        (wrong,) = say(connection, "b", "overlay", "bob", settles=True)
        splits = {one.content_sha256: (one.label, one.split) for one in current_labels(connection, CHECK)}
        assert (splits["a"], splits["b"]) == (("none", "golden"), ("overlay", "golden"))

        # all of it taken back: hashes decide again
        undo_labels(connection, LabelFilter(check_name=CHECK, who="ann"), who="ann")
        undo(connection, wrong)
        say(connection, "a", "overlay", "bob")
        splits = {one.content_sha256: one.split for one in current_labels(connection, CHECK)}
        assert splits == {"a": "golden", "c": "train", "d": "golden"}


def test_two_that_add_at_once_do_not_part_twins(engine: sa.Engine) -> None:
    """Each sees what the other committed before it reads."""
    splits: dict[str, str] = {}
    barrier = threading.Barrier(2)

    def add(name: str, wanted: str) -> None:
        barrier.wait()
        with transaction(engine) as connection:
            splits[name] = place_one(connection, seen(name, FAR[3]), wanted=wanted).stored

    threads = [threading.Thread(target=add, args=pair) for pair in (("a", "train"), ("b", "golden"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert splits["a"] == splits["b"]
