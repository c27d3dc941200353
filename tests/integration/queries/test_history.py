"""Everything that was ever said of one image: earlier answers, rescans, failures, labels."""

import json
from typing import Any

from tests.integration.queries.test_filters import call
from tests.rigs.asked_rig import Asked
from tests.rigs.rescan_rig import uri


def events(held: Asked, number: int) -> list[dict[str, Any]]:
    code, out, err = call(held, "history", uri(number), "--format", "json")
    assert code == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    assert found == sorted(found, key=lambda event: event["at"])
    return found


def test_answers_of_all_scans_and_rescans_are_there_with_the_one_that_stands(held: Asked) -> None:
    answers = [event for event in events(held, 6) if event["kind"] == "answer"]
    told = [(each["check"], each["margin"], each["scan"], each["by_scan"], each["adapter_id"]) for each in answers]
    assert told == [
        ("overlay", 1.0, held.scan, held.scan, held.first),
        ("overlay", -1.0, held.scan, held.rescan, held.second),
    ]
    assert [each["stands"] for each in answers] == [False, True]
    assert [each["decision"] for each in answers] == ["flag", "review"]
    assert [each["until"] for each in answers] == [answers[1]["at"], None]
    assert len({each["image_id"] for each in answers}) == 1


def test_scans_of_other_checks_are_told_apart(held: Asked) -> None:
    checks = [(event["check"], event["stands"]) for event in events(held, 0) if event["kind"] == "answer"]
    assert sorted(checks) == [("baggage", True), ("overlay", False), ("overlay", True)]


def test_failures_and_labels_are_told(held: Asked) -> None:
    [failure] = events(held, 11)
    assert (failure["kind"], failure["stage"], failure["reason"], failure["stands"]) == (
        "failure", "fetch", "gone", True,
    )  # fmt: skip
    labels = [(each["label"], each["who"], each["label_state"]) for each in events(held, 7) if each["kind"] == "label"]
    assert labels == [("none", "ann", "replaced"), ("overlay", "ann", "counts")]
    assert {each["label_state"] for each in events(held, 5) if each["kind"] == "label"} == {"conflict"}


def test_people_read_a_table(held: Asked) -> None:
    code, out, _ = call(held, "history", uri(6))
    assert code == 0
    header, first, second = out.splitlines()
    assert header.split()[:4] == ["at", "check", "what", "label"]
    assert ("flag" in first, "no" in first.split(), "review" in second, "yes" in second.split()) == (True,) * 4
    assert f"{held.scan} by {held.rescan}" in second
    assert call(held, "history", "mem://nowhere")[0] == 17
