"""Crops without a calibration may flag an image, and never clear it. First passes are decided as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop import CropSettings, crop_text
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.results.calibrations import Fitted
from scanfleet.db.results.results import ResultFilter
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.db.tables import Image, ScorerRow, Verdict
from scanfleet.models import pocket
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import read_card
from scanfleet.models.types import Reading
from scanfleet.producer.cli.scans.outcome import echo_summary
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.explanations import entry
from scanfleet.producer.reports.summary import summarise
from scanfleet.worker.commands.standalone import _margins
from scanfleet.worker.scoring import factory
from scanfleet.worker.scoring.crop import margins_of
from scanfleet.worker.scoring.decisions import Policy
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import FakeModel
from tests.rigs.worker_rig import Rig, png, rig

HELD = Thresholds(review=-0.6, flag=0.6)
EVEN = Calibrator(a=1.0, b=0.0, n=50, prevalence=0.5)
N = 60


def check_with(crop: CropSettings | None, **changes: Any) -> Check:
    return load_check("overlay").model_copy(update={"crop": crop or "never", **changes})


def own(check: Check) -> Policy:
    return Policy(question=question_of(check), calibrator=EVEN, thresholds=HELD)


def reading(margin: float) -> Reading:
    return Reading(margin=margin, logits=(margin, 0.0, -9.0), mass=1.0, visual_tokens=10)


LOOKED = CropResult(why="uncertain", first=0.5, second=-5.0, look="pair")
DIFFUSE = CropResult(why="uncertain", first=0.5, skipped="diffuse", look="pair")
CAPPED = CropResult(why="uncertain", first=0.5, skipped="cap", look="pair")


@pytest.mark.parametrize(
    ("crop", "margin", "decision"),
    [
        (LOOKED, -50.0, "review"),
        (LOOKED, -0.7, "review"),
        (LOOKED, 1.09, "review"),
        (LOOKED, 1.1, "flag"),
        (None, -0.61, "clear"),
        (None, -0.59, "review"),
        (None, 0.59, "review"),
        (None, 0.6, "flag"),
        (DIFFUSE, -0.61, "clear"),
        (DIFFUSE, 0.6, "flag"),
        (CAPPED, -50.0, "review"),
        (CAPPED, 50.0, "review"),
    ],
)
def test_an_untried_second_look_flags_and_never_clears(crop: CropResult | None, margin: float, decision: str) -> None:
    check = check_with(CropSettings(band=0.1))
    policy = margins_of(check, own(check), same_budget=True, fitted=None).policy.after(crop)
    made = policy.decide(reading(margin), complete=crop is None or crop.complete)
    assert (made.decision, made.score) == (decision, None)


def test_a_first_look_under_another_budget_is_read_as_without_second_looks() -> None:
    crop, plain = check_with(CropSettings()), check_with(None)
    once = margins_of(crop, own(crop), same_budget=False, fitted=None).policy.after(None)
    assert once == margins_of(plain, own(plain), same_budget=False, fitted=None).policy
    assert once.thresholds == Thresholds(review=-1.1, flag=1.1)


def test_a_calibrator_alone_clears_nothing_after_a_second_look_either() -> None:
    check = check_with(CropSettings())
    held = Policy(question=question_of(check), calibrator=EVEN)
    policy = margins_of(check, held, same_budget=True, fitted=None).policy
    assert policy.after(LOOKED).decide(reading(-9.0)).decision == "review"
    assert [policy.after(None).decide(reading(m)).decision for m in (-0.1, 0.1)] == ["clear", "flag"]


def test_a_calibration_or_a_base_alone_reads_every_image_alike() -> None:
    check = check_with(CropSettings())
    fitted = Fitted(calibrator=None, thresholds={"review": -2.0, "flag": 3.0}, first_thresholds=None)
    bare = Policy(question=question_of(check))
    for held, found in ((own(check), fitted), (bare, None)):
        policy = margins_of(check, held, same_budget=True, fitted=found).policy
        assert policy.after(LOOKED) is policy.after(None) is policy
        assert policy.decide(reading(-9.0)).decision == "clear"


def test_without_a_database_it_is_the_same() -> None:
    card = read_card(pocket.adapter_folder("overlay"))
    question = question_of(load_check("overlay"))
    plain = _margins(check_with(None), question, card, precision="fp32").policy
    crop = _margins(check_with(CropSettings()), question, card, precision="fp32").policy
    assert plain.thresholds is not None
    assert crop.after(None).thresholds == plain.thresholds
    assert crop.thresholds is not None
    assert crop.thresholds.review is None


# In a fleet


def fleet(worker: Rig, check: Check) -> str:
    scan = worker.scan({f"mem://a/{seed}.png": png(seed, width=84, height=84) for seed in range(N)}, check=check)
    worker.drain()
    return scan


def decided(worker: Rig, scan: str) -> dict[str, Any]:
    uris = {row.id: row.uri for row in worker.rows(Image, Image.scan_id == scan)}
    return {uris[row.image_id]: row for row in worker.rows(Verdict, Verdict.scan_id == scan)}


def test_a_fleet_clears_nothing_that_was_looked_at_twice_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fake model takes no adapter, so the policy of one is patched in."""
    monkeypatch.setattr(factory.ScorerMaker, "_own", lambda _self, check, _adapter: own(check))
    with rig(tmp_path, model=FakeModel()) as worker:
        plain = decided(worker, fleet(worker, check_with(None, boxes=True)))
        scan = fleet(worker, check_with(CropSettings(band=0.1, max_extra=100, fuse="second"), boxes=True))
        found = decided(worker, scan)
        summary = summarise(worker.engine, scan)
        none = ResultFilter(label="no image")
        write_report(worker.engine, worker.settings, scan, tmp_path / "sheet.html", wanted=none)
        rows = worker.rows(ScorerRow, ScorerRow.id == next(iter(found.values())).scorer_id)
    looked = {uri for uri, row in found.items() if row.crop is not None}
    assert any(found[uri].margin < -1.2 for uri in looked)  # would be clear by thresholds that merely moved apart
    assert {found[uri].decision for uri in looked} == {"review", "flag"}
    for uri in looked:
        assert (found[uri].decision == "flag") == (found[uri].margin >= 1.1)
    once = set(found) - looked
    assert any(0.7 < found[uri].margin < 1.1 for uri in once)  # flagged, though under the moved threshold
    for uri in once:
        told = [(row.decision, row.margin, row.boxes) for row in (found[uri], plain[uri])]
        assert told[0] == told[1]
        assert (found[uri].boxes is not None) == (found[uri].decision == "flag")
    assert (rows[0].calibrator, rows[0].thresholds) == (None, {"review": None, "flag": 1.1})
    echo_summary(summary)
    warning = "crop pass of this check is not calibrated"
    assert capsys.readouterr().err.count(warning) == 1
    assert (tmp_path / "sheet.html").read_text().count(warning) == 1


def test_only_an_untried_second_look_is_warned_of() -> None:
    text = crop_text(CropSettings(), band={"low": -0.6, "high": 0.6})
    use = ScorerUse(
        id=1, base_model="m", base_revision="1", precision="fp32", adapter="a" * 64, calibrator=None,
        thresholds={"review": None, "flag": 1.1}, n_images=3, crop=text,
    )  # fmt: skip
    told = entry(use, has_flags=True, check="mine")
    assert any("--check mine" in warning for warning in told.warnings)
    assert told.decision == (
        "flag: margin of +1.100 or more after a crop; clear: none after a crop; else review; "
        "an image without a crop is decided as without a crop pass"
    )
    fitted = {"a": 1.0, "b": 0.0, "n": 9, "prevalence": 0.5}
    for other in (replace(use, crop="never"), replace(use, calibrator=fitted), replace(use, thresholds=None)):
        assert not any("tune" in warning for warning in entry(other, has_flags=True, check="mine").warnings)
