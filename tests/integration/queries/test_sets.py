"""Answers of a check of kind multi, joined by image, on both databases."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.checks.multi import class_of, parse_multi
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, now, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels
from scanfleet.db.queries import sets
from scanfleet.db.queries.sets import iter_sets, labelled_sets, set_scans
from scanfleet.db.results import verdicts
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, new_images, scans
from scanfleet.db.scans.checks import add_checks, resolve_check, resolve_checks, save_check
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import LabelledImage, Scan
from scanfleet.errors import BadCheck, UnknownName
from tests.helpers.migrated import upgrade
from tests.rigs.ledger_rig import QUEUE, flagged, scorer_spec

CHECKS = parse_multi(
    'kind = "multi"\nname = "xray"\nprompt = "Is there a {class}?"\nclasses = ["knife", "gun"]\n', where="xray.toml"
)
KNIFE, GUN = CHECKS


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path))
    upgrade(engine)
    yield engine
    engine.dispose()


def scanned(engine: sa.Engine, check: Check, decisions: str, *, fresh: bool = False, pass_id: str | None = "p") -> str:
    """Scan an image a letter: f flags, c is clear, r and d are reviews, with the class likelier in r; - waits."""
    images = [NewImage(uri=f"s3://B/{number}.jpg", etag="1", size=1) for number in range(len(decisions))]
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(
            connection, check=check, model="fake", sources=["s3://B"], filters={}, fresh=fresh, pass_id=pass_id
        )
        new_images.add_images(connection, scan_id=scan.id, queue=QUEUE, images=images, batch_images=len(images))
        held = batches.claim(connection, model="fake", worker="w", lease_seconds=600)
        assert held is not None
        label, none = check.labels
        answers = {
            "f": (label, "flag", 2.0),
            "c": (none, "clear", -2.0),
            "r": (label, "review", 0.5),
            "d": (none, "review", -0.5),
        }
        made = []
        for image, letter in zip(held.images, decisions, strict=True):
            if letter in answers:
                said, decision, margin = answers[letter]
                made.append(replace(flagged(image), label=said, decision=decision, margin=margin, logits=(margin, 0.0)))
        scorer = scorer_id(connection, scorer_spec(held.check_id))
        verdicts.write(connection, held, Outcome(scorer_id=scorer, verdicts=made, failures={}))
    return scan.id


@pytest.mark.parametrize("page", [500, 2])
def test_each_image_has_the_classes_it_shows(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(sets, "PAGE_IMAGES", page)
    scanned(engine, KNIFE, "ffc-r")
    scanned(engine, GUN, "fccfd")
    with engine.connect() as connection:
        found = list(iter_sets(engine, set_scans(connection, CHECKS)))
    assert [(one.uri[-5], one.decided("flag"), one.decided("review"), sorted(one.shown)) for one in found] == [
        ("0", ["knife", "gun"], [], ["gun", "knife"]),
        ("1", ["knife"], [], ["knife"]),
        ("2", [], [], []),
        ("3", ["gun"], [], ["gun"]),
        ("4", [], ["knife", "gun"], ["knife"]),
    ]
    assert found[3].margins == {"gun": 2.0}
    assert found[0].content_sha256 == "sha-s3://B/0.jpg"


def test_the_newest_pass_answers_unless_a_scan_is_named(engine: sa.Engine) -> None:
    old = [scanned(engine, check, "ff") for check in CHECKS]
    with transaction(engine) as connection:
        connection.execute(sa.update(Scan).values(created_at=now(connection) - timedelta(hours=1)))
    new = [scanned(engine, check, "cc", fresh=True) for check in CHECKS]
    with engine.connect() as connection:
        assert [*set_scans(connection, CHECKS).values()] == new
        assert [*set_scans(connection, CHECKS, scan_id=old[1]).values()] == old
        with pytest.raises(UnknownName, match="nope is no scan of xray--knife"):
            set_scans(connection, CHECKS, scan_id="nope")


def test_a_class_that_was_not_scanned_is_named(engine: sa.Engine) -> None:
    scanned(engine, KNIFE, "ff")
    with engine.connect() as connection, pytest.raises(UnknownName, match="no scan of xray--gun over the images"):
        set_scans(connection, CHECKS)


def test_a_name_stands_for_the_classes_that_were_added_last(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        add_checks(connection, CHECKS)
        assert [one.name for one in resolve_checks(connection, "xray")] == ["xray--knife", "xray--gun"]
        with pytest.raises(BadCheck, match="xray is a check of kind multi; choose one of its checks: xray--knife"):
            resolve_check(connection, "xray")
        assert resolve_check(connection, "xray--gun") == GUN
    with transaction(engine) as connection:
        add_checks(connection, [GUN])
        assert resolve_checks(connection, "xray") == [GUN]
        save_check(connection, KNIFE)  # a scan used it
        assert resolve_checks(connection, "xray") == [GUN]
        assert [one.name for one in resolve_checks(connection, "overlay")] == ["overlay"]


def test_a_set_is_known_where_people_say_yes_or_no_to_every_class(engine: sa.Engine) -> None:
    said = {"both": ("knife", "gun"), "no": ("none", "none"), "half": ("knife", None), "train": ("knife", "gun")}
    with transaction(engine) as connection:
        for image, labels in said.items():
            row = {"content_sha256": image, "uri": image, "width": 8, "height": 9, "phash": "0", "cluster": image}
            row |= {"split": "train" if image == "train" else "golden", "added_at": now(connection)}
            connection.execute(sa.insert(LabelledImage), row)
            for check, label in zip(CHECKS, labels, strict=True):
                if label is not None:
                    new = NewLabel(content_sha256=image, label=label, who="ann", origin="person")
                    add_labels(connection, check.name, [new])
        found = labelled_sets(connection, CHECKS, [*said], splits=("golden",))
    assert found == {"both": set(map(class_of, CHECKS)), "no": set()}
