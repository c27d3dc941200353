"""The crop pass of a worker on the pocket model gives the same margins as the library without a fleet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from PIL import Image as PillowImage

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop import CropSettings
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.engine import transaction
from scanfleet.db.results import calibrations
from scanfleet.db.results.calibrations import Configuration, Fitted
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.tables import ScorerRow
from scanfleet.errors import DeviceUnavailable
from scanfleet.models import factory, pocket
from scanfleet.models.crops.batch import TwoPassReading, run_crop_pass
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.scenes.planted import planted
from scanfleet.models.types import Question
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.crop_selection import policy_of
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import LoadedModel
from tests.rigs.worker_rig import Rig, rig

N = 6
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def base() -> Iterator[BaseModel]:
    threads = torch.get_num_threads()
    yield load_base("pocket", precision="fp32", device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Small and large pictures, as PNG and as JPEG, which is decoded at a reduced size for the first pass."""
    made = {}
    for index in range(N):
        buffer = io.BytesIO()
        image = planted(3, index).image
        form = "JPEG" if index % 2 else "PNG"
        image.save(buffer, form, **({"quality": 95} if index % 2 else {"compress_level": 1}))
        made[f"mem://a/{index}.{form.lower()}"] = buffer.getvalue()
    return made


def crop_check(**settings: Any) -> Check:
    held = {"when": "always", "max_extra": 100.0} | settings
    return load_check("razor").model_copy(update={"crop": CropSettings.model_validate(held)})


def scored(worker: Rig, check: Check, pictures: dict[str, bytes], **how: Any) -> dict[str, Result]:
    register_shipped(worker.engine, worker.scoring.model.identity)
    scan = worker.scan(pictures, check=check, **how)
    worker.drain()
    return {result.uri: result for result in iter_results(worker.engine, ResultFilter(scan=scan))}


def without_a_fleet(base: BaseModel, check: Check, pictures: dict[str, bytes]) -> dict[str, TwoPassReading]:
    assert isinstance(check.crop, CropSettings)
    question, policy, adapter = question_of(check), policy_of(check, check.crop), pocket.adapter_folder("razor")
    scorer, crop_reader = (
        factory.scorer(base, question, adapter, policy=policy),
        factory.crop_reader(base, question, policy, adapter),
    )
    images = [PillowImage.open(io.BytesIO(data)).convert("RGB") for data in pictures.values()]
    firsts = scorer.score([scorer.prepare(image) for image in images])
    return dict(zip(pictures, run_crop_pass(scorer, crop_reader, images, firsts), strict=True))


def smallest(pictures: dict[str, bytes], n: int) -> dict[str, bytes]:
    """Return the n smallest of the lossless pictures."""
    lossless = [uri for uri in pictures if uri.endswith(".png")]
    return {uri: pictures[uri] for uri in sorted(lossless, key=lambda uri: len(pictures[uri]))[:n]}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "n"), [({}, N), ({"look": "tiles", "crop_pixels": 320 * 320}, 1)])
def test_a_worker_gives_the_margins_of_the_library(
    tmp_path: Path, base: BaseModel, pictures: dict[str, bytes], settings: dict[str, Any], n: int
) -> None:
    check = crop_check(**settings)
    pictures = pictures if n == N else smallest(pictures, n)
    only = {
        uri: data for uri, data in pictures.items() if uri.endswith(".png")
    }  # of a JPEG the first pass reads a draft
    expected = without_a_fleet(base, check, only)
    with rig(tmp_path, model=LoadedModel(base), token_budget=400) as worker:
        found = scored(worker, check, pictures)
    assert set(found) == set(pictures)
    assert {result.scorer.adapter for result in found.values() if result.scorer} != {None}
    for uri, looked in expected.items():
        crop = found[uri].crop
        assert isinstance(crop, CropResult)
        assert crop.first == pytest.approx(looked.first.margin, abs=TOLERANCE)
        assert found[uri].margin == pytest.approx(looked.fused.margin, abs=TOLERANCE)
        assert crop.tokens == looked.tokens
        assert crop.box == (None if looked.region is None else looked.region.corners)
        if looked.second:
            assert crop.second == pytest.approx(max(each.margin for each in looked.second), abs=TOLERANCE)
    for result in found.values():
        assert result.crop is not None
        assert result.crop.skipped in (None, "diffuse", "whole")
        assert (result.score, result.calibrated) == (None, False)


def test_a_calibration_of_this_configuration_gives_scores_and_the_band(
    tmp_path: Path, base: BaseModel, pictures: dict[str, bytes]
) -> None:
    check = crop_check(when="uncertain")
    with rig(tmp_path, model=LoadedModel(base), token_budget=400) as worker:
        few = smallest(pictures, 2)
        before = scored(worker, check, few)
        identity = worker.scoring.model.identity
        with transaction(worker.engine) as connection:
            digest = connection.execute(sa.text("SELECT weights_sha256 FROM adapters WHERE check_name = 'razor'"))
            configuration = Configuration(
                check_hash=check.hash,
                base_model=identity.base_model,
                base_revision=identity.revision,
                precision=identity.precision,
                weights_sha256=digest.scalar_one(),
            )
            fitted = Fitted(
                calibrator={"a": 1.0, "b": 0.0, "n": 100, "prevalence": 0.5, "method": "platt"},
                thresholds={"review": 50.0, "flag": 60.0},
                first_thresholds={"review": 70.0, "flag": 80.0},
            )
            calibrations.add_calibration(
                connection, configuration, fitted, check_name="razor", metrics={}, who="a test"
            )
        after = scored(worker, check, few)
        rows = worker.rows(ScorerRow)
    assert len({result.scorer.id for result in (*before.values(), *after.values()) if result.scorer}) == 2
    for result in after.values():
        assert result.calibrated
        assert result.score is not None
        assert result.decision == "clear"  # under 50
        assert result.crop is None  # under 70 - 0.5: certain
        assert not result.reused
    assert '"uncertain": {"high": 80.0, "low": 70.0}' in rows[-1].crop


def test_another_budget_is_answered_by_the_same_adapter_without_a_score(
    tmp_path: Path, base: BaseModel, pictures: dict[str, bytes]
) -> None:
    check = load_check("razor").model_copy(update={"max_pixels": 224 * 224})
    with rig(tmp_path, model=LoadedModel(base), token_budget=400) as worker:
        found = scored(worker, check, smallest(pictures, 1))
        (row,) = worker.rows(ScorerRow)
    assert (row.adapter_id is not None, row.calibrator) == (True, None)
    assert {(result.score, result.calibrated) for result in found.values()} == {(None, False)}


class OneImage(LoadedModel):
    """A model of a family that takes one image in a turn."""

    def crop_reader(self, question: Question, *_: Any) -> Any:
        raise ModelInvalid("takes one image in a turn")


def test_a_crop_that_the_model_cannot_read_is_an_error_and_no_adapter_is_refused(
    tmp_path: Path, base: BaseModel, pictures: dict[str, bytes]
) -> None:
    with rig(tmp_path, model=OneImage(base), token_budget=400) as worker:
        register_shipped(worker.engine, worker.scoring.model.identity)
        worker.scan(smallest(pictures, 1), check=crop_check())
        with pytest.raises(DeviceUnavailable, match="razor"):
            worker.scoring.scorers.resolve(1)
        with worker.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM refusals")).scalar_one() == 0


def test_a_crop_that_the_model_cannot_read_is_named_in_the_ledger(
    tmp_path: Path, base: BaseModel, pictures: dict[str, bytes]
) -> None:
    with rig(tmp_path, model=LoadedModel(base)) as worker:
        register_shipped(worker.engine, worker.scoring.model.identity)
        scan = worker.scan(smallest(pictures, 1), check=crop_check(layers=[90, 91]))
        worker.drain()
        waits = worker.progress(scan).waiting_for
    assert waits is not None
    assert "razor" in waits
    assert "90" in waits
