"""What keeps answers from being relied on is said where they are shown."""

import pytest

from scanfleet.db.results.scorers import ScorerUse
from scanfleet.producer.reports.caveats import caveats
from scanfleet.producer.reports.explanations import entry

CALIBRATED = {"a": 1.0, "b": 0.0, "n": 300, "prevalence": 0.3}


def scorer(**fields: object) -> ScorerUse:
    common = {"id": 1, "base_model": "a/model", "base_revision": "1", "precision": "bf16", "adapter": "ab" * 32}
    made = common | {"calibrator": CALIBRATED, "thresholds": None, "n_images": 100} | fields
    return ScorerUse(**made)  # type: ignore[arg-type]


def test_an_adapter_on_a_real_base_needs_no_word() -> None:
    assert entry(scorer(), has_flags=True).warnings == ()
    assert entry(scorer(n_low_mass=10), has_flags=True).warnings == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_model": "pocket"}, "generated pictures only"),
        ({"adapter": None, "calibrator": None}, "no adapter answered (zero-shot)"),
        ({"n_low_mass": 11}, "improbable answers for 11 of 100 images"),
    ],
)
def test_each_reason_is_a_line(fields: dict[str, object], words: str) -> None:
    (warning,) = entry(scorer(**fields), has_flags=True).warnings
    assert words in warning
    assert "\n" not in warning


def test_a_base_that_was_calibrated_for_itself_is_not_called_uncalibrated() -> None:
    assert caveats(base_model="a/model", adapter=None, calibrated=True) == ()
