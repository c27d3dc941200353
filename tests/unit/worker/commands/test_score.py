"""Scoring without a database: the scorer of a fleet, limited read-ahead, and a budget that moves no margin."""

import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.db.scans.scans import open_scan
from scanfleet.db.schema import ledger
from scanfleet.errors import BadSettings
from scanfleet.models import pocket
from scanfleet.worker.commands.score import _verdict_record, read_images
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.commands.stream import CHUNK_IMAGES, Scored, chunks_in_flight, score_stream, stages
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import FakeModel, Model, load_model
from tests.rigs.worker_rig import png
from tests.unit.worker.batch.test_frames import animation, frames

TOLERANCE = 1e-3  # of a margin, in any pack of images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(load_settings(data_dir=tmp_path_factory.mktemp("pocket"), model="pocket", device="cpu"))


def by_database(settings: Settings, model: Model, check_name: str) -> Resolved:
    with ledger(settings) as engine:
        register_shipped(engine, model.identity)
        with transaction(engine) as connection:
            scan, _ = open_scan(
                connection, check=load_check(check_name), model="pocket", sources=["x"], filters={}, fresh=True
            )
        return ScorerCache(engine, model, settings, worker="w").resolve(scan.check_id)


@pytest.mark.parametrize("check_name", ["overlay", "flowers"])  # one with a shipped adapter, one without
def test_the_scorer_and_the_policy_are_those_of_a_fleet(tmp_path: Path, model: Model, check_name: str) -> None:
    alone = resolve_alone(model, load_check(check_name), None)
    fleets = by_database(load_settings(data_dir=tmp_path, model="pocket"), model, check_name)
    assert alone.scorer.identity == fleets.scorer.identity
    assert alone.scorer.question == fleets.scorer.question
    assert alone.policy == fleets.policy
    assert (alone.scorer.identity.adapter_sha256 is not None) == (check_name == "overlay")
    assert (alone.policy.calibrator is not None) == (check_name == "overlay")


def test_a_threshold_for_more_positives_than_the_check_has_flags_nothing(model: Model) -> None:
    check = load_check("overlay")
    plain = resolve_alone(model, check, None).policy
    rare = resolve_alone(model, check.model_copy(update={"prevalence": 0.02}), None).policy
    assert plain.thresholds is not None
    assert plain.thresholds.flag is not None
    assert rare == replace(plain, thresholds=replace(plain.thresholds, flag=None), prevalence=0.02)


def test_a_given_adapter_goes_before_the_shipped_one(tmp_path: Path, model: Model) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(pocket.adapter_folder("overlay"), folder)
    given = resolve_alone(model, load_check("overlay"), folder)
    assert given.scorer.identity == resolve_alone(model, load_check("overlay"), None).scorer.identity
    with pytest.raises(BadSettings, match="baggage"):
        resolve_alone(model, load_check("baggage"), folder)
    with pytest.raises(BadSettings, match=r"adapter\.json is missing"):
        resolve_alone(model, load_check("overlay"), tmp_path)


def test_a_check_of_other_words_is_answered_by_the_base_alone(model: Model) -> None:
    other = load_check("overlay").model_copy(update={"prompt": "Is there any text on this picture?"})
    resolved = resolve_alone(model, other, None)
    assert resolved.scorer.identity.adapter_sha256 is None
    assert resolved.policy.calibrator is None


def claimed(folder: Path, files: Sequence[str]) -> Iterator[ClaimedImage]:
    for number, name in enumerate(files, start=1):
        yield ClaimedImage(id=number, uri=str(folder / name), root=str(folder), etag=None, identity="")


def margins(scored: Iterator[Scored]) -> list[float]:
    return [verdict.margin for _, outcome in scored for verdict in sorted(outcome.verdicts, key=lambda v: v.image_id)]


def test_the_token_budget_moves_no_margin(tmp_path: Path, model: Model) -> None:
    for number in range(6):
        width, height = (128, 128) if number % 2 else (160, 96)
        (tmp_path / f"{number}.png").write_bytes(png(number, width=width, height=height))
    resolved = resolve_alone(model, load_check("overlay"), None)
    settings = load_settings(data_dir=tmp_path, model="pocket")
    found = {}
    for budget in (16, 64, 8192):
        with stages(settings, model, token_budget=budget) as parts:
            images = claimed(tmp_path, [f"{number}.png" for number in range(6)])
            found[budget] = margins(score_stream(images, resolved, parts))
    assert len(found[16]) == 6
    assert found[64] == pytest.approx(found[16], abs=TOLERANCE)
    assert found[8192] == pytest.approx(found[16], abs=TOLERANCE)
    assert len({round(margin, 2) for margin in found[16]}) > 1


def test_the_stream_is_not_read_further_than_needed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    settings = load_settings(data_dir=tmp_path, model="fake", batches_in_flight=1, batch_images=2 * CHUNK_IMAGES)
    resolved = resolve_alone(FakeModel(), load_check("overlay"), None)
    n_read, n_images = 0, 50 * CHUNK_IMAGES

    def images() -> Iterator[ClaimedImage]:
        nonlocal n_read
        for image in claimed(tmp_path, ["a.png"] * n_images):
            n_read += 1
            yield image

    ahead = chunks_in_flight(settings)
    assert ahead == 2
    furthest = 0
    with stages(settings, FakeModel(), token_budget=512) as parts:
        for done, (chunk, outcome) in enumerate(score_stream(images(), resolved, parts), start=1):
            furthest = max(furthest, n_read - done * CHUNK_IMAGES)
            assert len(outcome.verdicts) == len(chunk) == CHUNK_IMAGES
    assert n_read == n_images
    # in the queue, and one chunk that waits for a place in it
    assert furthest <= (ahead + 2) * CHUNK_IMAGES


def test_an_error_while_the_list_is_read_is_not_the_end_of_it(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, model="fake")
    resolved = resolve_alone(FakeModel(), load_check("overlay"), None)
    with (
        stages(settings, FakeModel(), token_budget=512) as parts,
        pytest.raises(ValueError, match="Expecting"),
    ):
        list(score_stream(read_images(io.StringIO("{")), resolved, parts))


def test_verdicts_hold_what_an_export_holds(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "a.png")
    resolved = resolve_alone(FakeModel(), load_check("overlay"), None)
    with stages(load_settings(data_dir=tmp_path, model="fake"), FakeModel(), token_budget=512) as parts:
        ((_, outcome),) = score_stream(claimed(tmp_path, ["a.png"]), resolved, parts)
    (verdict,) = outcome.verdicts
    assert (verdict.width, verdict.height) == (30, 20)
    assert asdict(verdict)["reused_from"] is None


def test_several_pictures_are_not_calibrated_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(animation(frames(3)))
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "b.png")
    resolved = resolve_alone(FakeModel(), load_check("overlay"), None)
    with stages(load_settings(data_dir=tmp_path, model="fake"), FakeModel(), token_budget=512) as parts:
        ((_, outcome),) = score_stream(claimed(tmp_path, ["a.png", "b.png"]), resolved, parts)
    several, one = (_verdict_record("a", verdict, {}, calibrated=True) for verdict in by_id(outcome.verdicts))
    assert (several["calibrated"], several["frames"]["n_scored"]) == (False, 3)
    assert (one["calibrated"], one["frames"], one["notes"]) == (True, None, None)


def by_id(verdicts: Sequence[NewVerdict]) -> list[NewVerdict]:
    return sorted(verdicts, key=lambda verdict: verdict.image_id)
