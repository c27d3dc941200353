"""Damaged files of labels: an image has the label that the undamaged file gave it, or none at all.

`make test` tries some hundred files, `make test-slow` two thousand.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanfleet.errors import BadLabels
from tests.fuzz import label_mutants as mutants
from tests.unit.producer.labels.test_left_out import imported

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
SLOW_EXAMPLES = 2000
some = settings(
    max_examples=-(-N_EXAMPLES // len(mutants.FORMS)), suppress_health_check=list(HealthCheck), deadline=None
)
all_of_them = settings(some, max_examples=-(-SLOW_EXAMPLES // len(mutants.FORMS)))


def check(draw: st.DrawFn, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = mutants.files(draw, form, Path(name))
        text = "" if path.is_file() else (path / "labels/a.txt").read_text("utf-8", "replace")
        try:
            labels, _ = imported(path)
        except BadLabels:
            return
    for image, (label, boxes) in labels.items():
        found = {label, *(box[4] for box in boxes or ())}
        if form == "yolo":
            assert found <= mutants.yolo_says(text)
        elif image in ("a.png", "b.png"):
            assert label == mutants.told(form, image)
            assert {box[4] for box in boxes or ()} <= {mutants.THREAT, mutants.OTHER}


@pytest.mark.parametrize("form", mutants.FORMS)
@some
@given(data=st.data())
def test_no_label_that_a_damaged_file_does_not_say(form: str, data: st.DataObject) -> None:
    check(data.draw, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", mutants.FORMS)
@all_of_them
@given(data=st.data())
def test_no_label_that_two_thousand_damaged_files_do_not_say(form: str, data: st.DataObject) -> None:
    check(data.draw, form)
