"""What becomes of people's labels when an image is forgotten, and what else is named, on SQLite and PostgreSQL."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import now, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels
from scanfleet.db.results import verdicts
from scanfleet.db.scans import new_images
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Adapter, Image, Label, LabelledImage, Scan, Training, Verdict
from scanfleet.producer.deletion import forgetting
from tests.helpers.cli_call import scanfleet
from tests.rigs.deletion_rig import faults, rows
from tests.rigs.rescan_rig import QUEUE, Archive, uri


def spread(name: str) -> float:
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


def label(held: Archive, *uris: str, split: str = "train", sha: str | None = None) -> None:
    """As a person does who saw these images; their bytes are those that `held.scan` answers for."""
    with transaction(held.engine) as connection:
        for name in uris:
            content = sha or f"sha-{name}"
            row = {"content_sha256": content, "uri": name, "width": 8, "height": 9, "phash": "0", "cluster": name}
            connection.execute(sa.insert(LabelledImage).values(row | {"split": split, "added_at": now(connection)}))
            new = NewLabel(content_sha256=content, label="overlay", who="ann", origin="person", uri=name)
            add_labels(connection, held.check.name, [new])


def forget(held: Archive, **which: Any) -> None:
    for _ in forgetting.forget(held.engine, Selection(**which), with_labels=True):
        pass
    assert faults(held.engine) == []


def labelled(held: Archive) -> set[str]:
    images = {row.content_sha256 for row in rows(held.engine, LabelledImage)}
    assert images == {row.content_sha256 for row in rows(held.engine, Label)}
    return images


def test_labels_go_with_their_images_and_no_others_do(held: Archive) -> None:
    held.scan(4, spread)
    label(held, uri(0), uri(1))
    found = forgetting.holdings(held.engine, Selection(where={"n": "1"}))
    assert [(each.check, each.n_images) for each in found.labels] == [(held.check.name, 1)]
    forget(held, where={"n": "1"})
    assert labelled(held) == {f"sha-{uri(0)}"}


def test_labels_of_bytes_that_another_image_has_stay_without_the_name_that_goes(held: Archive) -> None:
    """Two names of the same bytes, in two scans: labelled under one, shown to a second person under the other."""
    held.scan(1, spread)
    other = held.scan(0, spread)
    with transaction(held.engine) as connection:
        page = [NewImage(uri="mem://b/00007", etag="1", meta={"n": 7})]
        new_images.add_images(connection, scan_id=other, queue=QUEUE, images=page, batch_images=4)
        opened = sa.update(Scan).where(Scan.id == other)
        connection.execute(opened.values(state="running", finished_at=None, n_listed=1))
    claim = held.must_claim()
    known = held.outcome(claim, spread)
    same = [replace(each, content_sha256=f"sha-{uri(0)}") for each in known.verdicts]
    with transaction(held.engine) as connection:
        verdicts.write(connection, claim, replace(known, verdicts=same))
    label(held, uri(0))
    with transaction(held.engine) as connection:
        shown = NewLabel(content_sha256=f"sha-{uri(0)}", label="none", who="ben", origin="person", uri="mem://b/00007")
        add_labels(connection, held.check.name, [shown])
    forget(held, where={"n": "7"})
    assert {(row.who, row.uri) for row in rows(held.engine, Label)} == {("ann", uri(0)), ("ben", None)}
    forget(held, uris=(uri(0),))
    assert labelled(held) == set()


def test_labels_under_a_name_that_goes_take_that_of_another_image_with_the_same_bytes(held: Archive) -> None:
    held.scan(2, spread)
    with transaction(held.engine) as connection:  # 1 is a copy of 0
        copied = {"content_sha256": f"sha-{uri(0)}"}
        connection.execute(sa.update(Verdict).where(Verdict.content_sha256 == f"sha-{uri(1)}").values(copied))
        connection.execute(sa.update(Image).where(Image.uri == uri(1)).values(copied))
    label(held, uri(0))
    forget(held, uris=(uri(0),))
    assert labelled(held) == {f"sha-{uri(0)}"}
    assert [row.uri for row in rows(held.engine, LabelledImage)] == [uri(1)]
    assert [(row.who, row.uri) for row in rows(held.engine, Label)] == [("ann", None)]
    forget(held, uris=(uri(1),))
    assert labelled(held) == set()


def test_by_name_labels_of_images_that_no_scan_holds_go_too(held: Archive) -> None:
    label(held, *(f"s3://ads/acme/{number}" for number in range(9)), "s3://ads/b/1")
    selection = Selection(prefix="s3://ads/acme/")
    assert forgetting.holdings(held.engine, selection).labels[0].n_images == 9
    forget(held, prefix="s3://ads/acme/")
    assert labelled(held) == {"sha-s3://ads/b/1"}


def test_by_age_labels_of_images_that_another_scan_holds_stay(held: Archive) -> None:
    first, _ = held.scan(2, spread), held.scan(2, spread)
    label(held, uri(0))
    forget(held, uris=(uri(0),), scans=(first,))
    assert labelled(held) == {f"sha-{uri(0)}"}


def train(held: Archive, **values: Any) -> int:
    with transaction(held.engine) as connection:
        check_id = connection.execute(sa.select(Scan.check_id).limit(1)).scalar_one()
        newest = connection.execute(sa.select(sa.func.max(Label.id))).scalar_one()
        row = {
            "check_id": check_id, "check_name": held.check.name, "base_model": "fake", "recipe": "lora",
            "overrides": {}, "seed": 1, "reason": "a test", "newest_label": newest, "created_at": now(connection),
            "state": "leased", "started_at": now(connection),
        }  # fmt: skip
        added = sa.insert(Training).values(row | values).returning(Training.id)
        return connection.execute(added).scalar_one()


def call(held: Archive, *words: str) -> tuple[int, str, str]:
    settings = held.settings
    answer = scanfleet("forget", *words, data_dir=settings.data_dir, database_url=settings.database)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout, answer.stderr


def test_the_command_wants_a_word_about_labels_and_names_what_else_holds_them(held: Archive) -> None:
    adapter = held.promote("one")
    scan_id = held.scan(4, spread)
    label(held, uri(0), split="golden")
    label(held, uri(3))
    training = train(held, state="done")
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Adapter).where(Adapter.id == adapter).values(training_id=training))
    code, shown, said = call(held, "--where", "n=0", "--dry-run")
    assert code == 0
    assert scan_id in shown
    assert "1 image; 1 of the 1 in its golden set" in said
    assert "figures of the gate" in said
    assert f"adapter {adapter}" in said
    assert "/none/one" in said
    code, _, said = call(held, "--where", "n=0", "--yes")
    assert code == 2
    assert "--keep-labels" in said
    code, _, said = call(held, "--where", "n=0", "--yes", "--labels", "--keep-labels")
    assert (code, "contradict" in said) == (2, True)
    assert len(rows(held.engine, Image)) == 4
    assert call(held, "--where", "n=0", "--yes", "--keep-labels")[0] == 0
    assert labelled(held) == {f"sha-{uri(0)}", f"sha-{uri(3)}"}
    assert call(held, "--uri", uri(3), "--yes", "--labels")[0] == 0
    assert labelled(held) == {f"sha-{uri(0)}"}
    assert {row.uri for row in rows(held.engine, Image)} == {uri(1), uri(2)}


def test_labels_that_a_training_is_learning_from_are_refused(held: Archive) -> None:
    held.scan(2, spread)
    label(held, uri(0))
    training = train(held)
    code, _, said = call(held, "--uri", uri(0), "--yes", "--labels")
    assert code == 2
    assert f"train cancel {training}" in said
    assert len(rows(held.engine, Image)) == 2
    assert call(held, "--uri", uri(1), "--yes", "--labels")[0] == 0  # it has none


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2), (("--scan", "x"), 2), (("--where", "acme"), 2), (("--where", "a=1", "--where", "a=2"), 2),
        (("--uri", "mem://a/00000"), 2), (("--older-than", "1y"), 2), (("--uri", "x", "--scan", "nosuch"), 17),
    ],
)  # fmt: skip
def test_a_request_that_is_not_whole_deletes_nothing(held: Archive, words: tuple[str, ...], code: int) -> None:
    held.scan(2, spread)
    assert call(held, *words)[0] == code
    assert len(rows(held.engine, Image)) == 2


def test_a_source_that_names_the_image_is_named(held: Archive, tmp_path: Path) -> None:
    scan_id = held.scan(1, spread)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Scan).values(sources=[uri(0), str(tmp_path)]))
    code, _, said = call(held, "--uri", uri(0), "--dry-run")
    assert code == 0
    assert f"scan {scan_id} keeps its source as given, {uri(0)}" in said
    assert str(tmp_path) not in said
