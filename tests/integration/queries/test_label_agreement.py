"""Precision and recall by people's labels: the random draw apart, disputed labels in neither."""

import json
from typing import Any

import pytest

from scanfleet.stats.proportions import wilson
from tests.helpers.cli_call import scanfleet
from tests.rigs.asked_rig import Asked


def agreement(held: Asked, *arguments: str) -> tuple[int, str, str]:
    settings = held.archive.settings
    done = scanfleet("scans", "agreement", *arguments, data_dir=settings.data_dir, database_url=settings.database)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def measured(held: Asked, scan: str) -> dict[str, Any]:
    code, out, err = agreement(held, scan, "--labels", "--format", "json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["labels"]
    return found


def test_the_random_draw_is_measured_apart(held: Asked) -> None:
    """Since the rescan 8 to 10 are flags, 6 and 7 reviews."""
    found = measured(held, held.scan)
    random, chosen = found["random"], found["chosen"]
    assert (random["images"], chosen["images"], found["disputed"]) == (7, 2, 1)
    precision, recall = random["precision_of_flags"], random["recall_of_flags"]
    assert (precision["k"], precision["n"]) == (2, 3)  # 10 is a false flag
    assert (precision["low"], precision["high"]) == wilson(2, 3)
    assert (recall["k"], recall["n"]) == (2, 2)
    assert (chosen["recall_of_flags"]["k"], chosen["recall_of_flags"]["n"]) == (0, 2)
    assert chosen["recall_of_flags_and_reviews"]["k"] == 1  # 7; 4 is clear
    assert found["taught"] == 2  # 8 and 4


def test_a_label_counts_against_the_answer_that_stands_and_for_its_check_alone(held: Asked) -> None:
    rescan = measured(held, held.rescan)
    assert rescan["random"]["precision_of_flags"] == measured(held, held.scan)["random"]["precision_of_flags"]
    code, out, said = agreement(held, held.other, "--labels")
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert "no label" not in out
    assert "labels suggest --check baggage" in said


def test_people_read_both_parts_and_what_is_left_out(held: Asked) -> None:
    code, out, said = agreement(held, held.scan, "--labels")
    assert code == 0
    lines = out.splitlines()
    assert "against the labels of 7 images drawn at random (rows: label, columns: answer)" in lines
    assert any(line.startswith("precision of flags: 0.6667 (2 of 3; 95 % interval") for line in lines)
    assert "not counted: 1 image that people label differently" in lines
    assert "2 images may have taught the adapter" in said


def test_a_column_of_the_manifest_and_labels_are_measured_side_by_side(held: Asked) -> None:
    assert agreement(held, held.scan)[0] == 2
    code, _, said = agreement(held, held.scan, "--labels", "--truth", "campaign")
    assert (code, said.count("\n")) == (2, 1)
    assert "--truth campaign" in said


@pytest.mark.parametrize("form", ["table", "json"])
def test_an_unknown_scan_is_named(held: Asked, form: str) -> None:
    assert agreement(held, "zzz", "--labels", "--format", form)[0] == 17
