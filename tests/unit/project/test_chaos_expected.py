"""What a chaos run asks of the ledger when objects change during their scans."""

import pytest

from tests.chaos.archive import MODEL, TWIN, Answer, Item, Reference, first_scans, late_scans, make_archive
from tests.chaos.expected import FAILURES, Change, ChangeKind, Expected, Key, Listed, expected_rows

MAX_PIXELS = 10**6
SCAN = first_scans(workers=4)[0]
LISTED = Listed(scan=SCAN, began=10.0, ended=20.0)
GOODS = [item for item in make_archive(images=60, seed=1, poison=0) if item.kind == "good"]
OLD, NEW = (Item(key="overlay/000001.png", data=item.data, kind="good") for item in GOODS[:2])


def rows(kind: ChangeKind, *, at: float) -> dict[Key, Expected]:
    change = Change(kind=kind, began=at, ended=at + 0.1, item=NEW if kind == "overwritten" else None)
    return expected_rows([LISTED], [OLD], {OLD.key: change}, max_pixels=MAX_PIXELS)


def key(item: Item) -> Key:
    return (SCAN.check.name, SCAN.model, item.uri, item.etag)


def right(item: Item) -> Answer:
    return Reference(SCAN, max_pixels=MAX_PIXELS).answer(item)


def test_an_object_that_stays_has_one_answer() -> None:
    held = expected_rows([LISTED], [OLD], {}, max_pixels=MAX_PIXELS)
    assert held == {key(OLD): Expected(answers=(right(OLD),))}


@pytest.mark.parametrize("kind", ["deleted", "overwritten", "denied"])
def test_what_changes_after_its_listing_is_answered_as_listed_or_failed(kind: ChangeKind) -> None:
    assert rows(kind, at=21.0) == {key(OLD): Expected(answers=(right(OLD), FAILURES[kind]), change=kind)}


def test_what_changed_before_or_during_its_last_listing_may_be_unknown() -> None:
    assert not rows("deleted", at=5.0)[key(OLD)].required
    assert not rows("deleted", at=15.0)[key(OLD)].required
    assert rows("denied", at=5.0)[key(OLD)].required  # it is listed all the same
    assert rows("overwritten", at=5.0)[key(NEW)] == Expected(answers=(right(NEW),))
    assert not rows("overwritten", at=15.0)[key(NEW)].required


def test_two_models_and_two_checks_give_other_margins_for_the_same_bytes() -> None:
    scans = [*first_scans(workers=4), *late_scans(3)]
    assert {scan.model for scan in scans} == {MODEL, TWIN}
    margins = {Reference(scan, max_pixels=MAX_PIXELS).answer(OLD).margin for scan in scans}
    assert len(margins) == len(scans) == 5
    assert {scan.check.hash for scan in late_scans(3)}.isdisjoint(scan.check.hash for scan in late_scans(5))
