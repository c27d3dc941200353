"""Adapters in a worker, on a tiny real model: found, verified, switched between batches and never within one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.tables import Adapter, Image, ScorerRow, Verdict
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import champion, promote
from scanfleet.models import factory
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import CARD, SETTINGS, AdapterCard, Canary, LoraSettings, read_card, write_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.lora import add_lora, save_lora
from scanfleet.models.types import ModelIdentity, Question, Scorer
from scanfleet.worker.scoring.adapters import AdapterFolders, register_shipped
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import LoadedModel
from tests.rigs.worker_rig import Rig, png, rig
from tests.unit.models import tiny_models as tiny

CHECK = load_check("overlay").model_copy(update={"max_pixels": 100 * 100, "min_pixels": 28 * 28})
LORA = LoraSettings(r=4, lora_alpha=8, target_modules=FAMILIES["qwen3_vl"].language_linear)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


def load(folder: Path, precision: Precision = "fp32") -> BaseModel:
    return load_base(str(folder), precision=precision, device="cpu")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return make_adapter(root / "one", folder, seed=1), make_adapter(root / "two", folder, seed=2)


def make_adapter(into: Path, folder: Path, *, seed: int, check: Check = CHECK) -> Path:
    base = load(folder)
    model = add_lora(base.network, LORA, name="default")
    torch.manual_seed(seed)
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.2)
    card = AdapterCard(
        name=f"seed {seed}",
        question=question_of(check),
        base_model=str(folder),
        base_revision=base.checkpoint.revision,
        calibrator=Calibrator(a=1.5, b=-0.25, n=400, prevalence=0.5),
        thresholds=Thresholds(review=-1.0, flag=2.0),
    )
    save_lora(into, model, card=card, lora=LORA)
    return into


def info(folder: Path, **changes: Any) -> AdapterInfo:
    card = read_card(folder)
    fields: dict[str, Any] = {
        "check_name": card.question.name,
        "check_hash": CHECK.hash,
        "base_model": card.base_model,
        "base_revision": card.base_revision,
        "uri": str(folder),
        "weights_sha256": card.weights_sha256,
        "calibrator": {"a": 1.5, "b": -0.25, "n": 400, "prevalence": 0.5, "method": "platt"},
        "thresholds": {"review": -1.0, "flag": 2.0},
    }
    return AdapterInfo(**(fields | changes))


def put_in_use(worker: Rig, adapter: AdapterInfo) -> int:
    with transaction(worker.engine) as connection:
        adapter_id = register_adapter(connection, adapter)
        promote(connection, adapter_id, kind="forced", why="test")
    return adapter_id


def pictures(n: int, *, start: int = 0) -> dict[str, bytes]:
    return {f"mem://a/{number}.png": png(number) for number in range(start, start + n)}


def adapter_of(worker: Rig, scan: str) -> set[int | None]:
    scorers = {row.id: row.adapter_id for row in worker.rows(ScorerRow)}
    return {scorers[row.scorer_id] for row in worker.rows(Verdict, Verdict.scan_id == scan)}


def test_a_base_without_adapter_scores_without_a_calibrated_score(tmp_path: Path, folder: Path) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        scan = worker.scan(pictures(3), check=CHECK)
        worker.drain()
        assert adapter_of(worker, scan) == {None}
        assert {row.score for row in worker.rows(Verdict)} == {None}


def test_the_champion_scores_with_its_calibrator(tmp_path: Path, folder: Path, adapters: tuple[Path, Path]) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        adapter_id = put_in_use(worker, info(adapters[0]))
        scan = worker.scan(pictures(4), check=CHECK)
        worker.drain()
        assert adapter_of(worker, scan) == {adapter_id}
        platt = Calibrator(a=1.5, b=-0.25, n=400, prevalence=0.5)
        for row in worker.rows(Verdict):
            assert row.score == pytest.approx(platt.probability(row.margin))
            assert row.decision in (Thresholds(review=-1.0, flag=2.0).decide(row.margin), "review")


def test_the_prevalence_of_a_check_moves_its_scores_and_makes_another_scorer(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    """The adapter was certified at 50 %: at 2 % its flag threshold promises nothing."""
    rare = CHECK.model_copy(update={"prevalence": 0.02})
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        adapter_id = put_in_use(worker, info(adapters[0]))
        for check in (CHECK, rare):
            scan = worker.scan(pictures(4), check=check)
            worker.drain()
            assert adapter_of(worker, scan) == {adapter_id}
        plain, moved = worker.rows(ScorerRow)
        assert plain.key != moved.key
        assert (plain.thresholds, moved.thresholds) == ({"review": -1.0, "flag": 2.0}, {"review": -1.0, "flag": None})
        platt = Calibrator(a=1.5, b=-0.25, n=400, prevalence=0.5)
        for row in worker.rows(Verdict):
            prevalence = 0.02 if row.scorer_id == moved.id else None
            assert row.score == pytest.approx(platt.probability(row.margin, prevalence=prevalence))


@pytest.mark.slow
def test_a_calibrator_of_full_precision_does_not_read_a_quantised_scorer(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder, "int8"))) as worker:
        adapter_id = put_in_use(worker, info(adapters[0]))
        scan = worker.scan(pictures(3), check=CHECK)
        worker.drain()
        assert adapter_of(worker, scan) == {adapter_id}
        assert {row.score for row in worker.rows(Verdict)} == {None}
        (scorer,) = worker.rows(ScorerRow)
        assert (scorer.calibrator, scorer.thresholds) == (None, {"review": -1.25, "flag": 2.25})


def test_a_promotion_takes_effect_at_the_next_batch_and_never_inside_one(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        first = put_in_use(worker, info(adapters[0]))
        scan = worker.scan(pictures(12), check=CHECK, batch_images=4)
        worker.pipeline.run(None)
        second = put_in_use(worker, info(adapters[1]))
        worker.drain()
        scorers = {row.id: row.adapter_id for row in worker.rows(ScorerRow)}
        batch_of = {row.id: row.batch_id for row in worker.rows(Image)}
        used: dict[int, set[int | None]] = {}
        for row in worker.rows(Verdict, Verdict.scan_id == scan):
            used.setdefault(batch_of[row.image_id], set()).add(scorers[row.scorer_id])
        assert list(used.values()) == [{first}, {second}, {second}]


def test_a_check_with_other_words_is_answered_by_the_base_alone(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        put_in_use(worker, info(adapters[0]))
        scan = worker.scan(pictures(2), check=CHECK.model_copy(update={"prompt": "Another question?"}))
        worker.drain()
        assert adapter_of(worker, scan) == {None}


def test_other_targets_with_the_same_words_keep_the_adapter(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    with rig(tmp_path, model=LoadedModel(load(folder))) as worker:
        adapter_id = put_in_use(worker, info(adapters[0]))
        scan = worker.scan(pictures(2), check=CHECK.model_copy(update={"target_recall": 0.8}))
        worker.drain()
        assert adapter_of(worker, scan) == {adapter_id}


def test_files_that_are_not_those_registered_are_not_used(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    with rig(tmp_path / "w", model=LoadedModel(load(folder))) as worker:
        shutil.copytree(adapters[1], tmp_path / "adapter")
        put_in_use(worker, info(adapters[0], uri=str(tmp_path / "adapter")))
        scan = worker.scan(pictures(2), check=CHECK)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_pending, progress.n_failures) == (2, 0)
        assert "now holds other weights" in str(progress.waiting_for)
        shutil.rmtree(tmp_path / "adapter")
        shutil.copytree(adapters[0], tmp_path / "adapter")
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 2


def test_settings_that_are_altered_after_registration_are_refused_by_name(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(adapters[0], copy)
    with rig(tmp_path / "w", model=LoadedModel(load(folder))) as worker:
        put_in_use(worker, info(copy))
        worker.scan(pictures(2), check=CHECK)
        worker.drain()  # the adapter is in memory now
        settings = json.loads((copy / SETTINGS).read_text())
        (copy / SETTINGS).write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
        other = CHECK.model_copy(update={"target_recall": 0.8})  # makes a scorer of its own
        scan = worker.scan(pictures(2, start=2), check=other)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures) == (0, 0)
        assert f"{copy / SETTINGS} was altered" in str(progress.waiting_for)
        assert "lora_alpha is 16.0, not 8.0" in str(progress.waiting_for)


def test_a_card_that_no_longer_asks_its_check_is_refused_rather_than_left_out(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(adapters[0], copy)
    card = json.loads((copy / CARD).read_text())
    card["question"]["prompt"] = "Is there a cat?"
    (copy / CARD).write_text(json.dumps(card))
    with rig(tmp_path / "w", model=LoadedModel(load(folder))) as worker:
        put_in_use(worker, info(copy))
        scan = worker.scan(pictures(2), check=CHECK)
        worker.drain()
        assert worker.progress(scan).n_verdicts == 0
        assert f"{copy / CARD} asks another question" in str(worker.progress(scan).waiting_for)


SLOWLY = [pytest.param(each, marks=pytest.mark.slow) for each in ({"none": "none"}, {"none": "", "overlay": "overlay"})]


@pytest.mark.parametrize("descriptions", [{}, *SLOWLY])
def test_a_menu_that_reads_the_same_keeps_the_adapter(
    tmp_path: Path, folder: Path, descriptions: dict[str, str]
) -> None:
    written = CHECK.model_copy(update={"descriptions": {"overlay": "overlay", "natural": "natural"}})
    adapter = make_adapter(tmp_path / "adapter", folder, seed=1, check=written)
    with rig(tmp_path / "w", model=LoadedModel(load(folder))) as worker:
        adapter_id = put_in_use(worker, info(adapter))
        scan = worker.scan(pictures(2), check=CHECK.model_copy(update={"descriptions": descriptions}))
        worker.drain()
        assert adapter_of(worker, scan) == {adapter_id}
        assert {row.score is None for row in worker.rows(Verdict)} == {False}  # with its calibrator


def test_files_that_are_swapped_between_finding_and_loading_are_not_used(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path]
) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(adapters[0], copy)

    class Swapping(LoadedModel):
        def scorer(self, question: Question, adapter: Path | None) -> Scorer:
            if adapter is not None:
                shutil.rmtree(copy)
                shutil.copytree(adapters[1], copy)  # valid: its card and weights agree
            return super().scorer(question, adapter)

    with rig(tmp_path / "w", model=Swapping(load(folder))) as worker:
        put_in_use(worker, info(adapters[0], uri=str(copy)))
        scan = worker.scan(pictures(2), check=CHECK)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures) == (0, 0)
        assert "changed while it was loaded" in str(progress.waiting_for)


@pytest.mark.parametrize("digest", ["", "../../outside", "F" * 64, "0" * 64 + "/x"])
def test_a_digest_that_is_none_names_no_folder(tmp_path: Path, digest: str) -> None:
    adapter = AdapterInfo(
        check_name="overlay",
        check_hash="h",
        base_model="pocket",
        base_revision="r",
        uri="s3://b/adapters/one",
        weights_sha256=digest,
    )
    with pytest.raises(ModelInvalid, match="without a SHA-256"):
        AdapterFolders(load_settings(data_dir=tmp_path)).find(adapter)


@pytest.mark.parametrize(("shift", "scored"), [(0.0, True), (0.2, False)])
def test_an_adapter_is_used_only_if_its_canary_sings(
    tmp_path: Path, folder: Path, adapters: tuple[Path, Path], shift: float, scored: bool
) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(adapters[0], copy)
    images = [tiny.picture(90, 60, seed) for seed in range(3)]
    for number, image in enumerate(images):
        image.save(copy / f"{number}.png")
    scorer = factory.scorer(load(folder), question_of(CHECK), adapters[0])
    margins = [reading.margin + shift for reading in scorer.score([scorer.prepare(image) for image in images])]
    card = json.loads((copy / CARD).read_text())
    card["canary"] = Canary(images=("0.png", "1.png", "2.png"), margins=tuple(margins)).model_dump(mode="json")
    (copy / CARD).write_text(json.dumps(card))
    with rig(tmp_path / "w", model=LoadedModel(load(folder))) as worker:
        put_in_use(worker, info(copy))
        scan = worker.scan(pictures(2), check=CHECK)
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts == 2) is scored
        shifts = [row.shift for row in worker.rows(ScorerRow)]
        assert shifts == ([{"max": 0.0, "mean": 0.0, "n": 3, "against": "fp32"}] if scored else [])
        assert ("canary's margins moved" in str(progress.waiting_for)) is not scored


def shipped(into: Path, *, revision: str, weights: bytes = b"w") -> ModelIdentity:
    """A folder like models/pocket/weights/adapters."""
    card = AdapterCard(
        name="overlay",
        question=question_of(load_check("overlay")),
        base_model="pocket",
        base_revision=revision,
    )
    write_adapter(into / "overlay", card=card, lora=LORA, weights=weights)
    return ModelIdentity(base_model="pocket", revision=revision, precision="fp32", adapter_sha256=None)


def in_use(engine: sa.Engine) -> AdapterInfo:
    with transaction(engine) as connection:
        found = champion(connection, "overlay", "pocket")
    assert found is not None
    return found


def test_shipped_adapters_are_entered_once_and_put_in_use(tmp_path: Path) -> None:
    with rig(tmp_path / "w") as worker:
        identity = shipped(tmp_path / "a", revision="sha256:1")
        for _ in range(2):
            assert register_shipped(worker.engine, identity, folder=tmp_path / "a") == 1
        assert len(worker.rows(Adapter)) == 1
        assert in_use(worker.engine).uri == "builtin://pocket/overlay"


def test_a_shipped_adapter_does_not_depose_a_champion_of_the_same_base(tmp_path: Path) -> None:
    with rig(tmp_path / "w") as worker:
        identity = shipped(tmp_path / "a", revision="sha256:1")
        own = AdapterInfo(
            check_name="overlay",
            check_hash="h",
            base_model="pocket",
            base_revision="sha256:1",
            uri="/mine",
            weights_sha256="f" * 64,
        )
        own_id = put_in_use(worker, own)
        register_shipped(worker.engine, identity, folder=tmp_path / "a")
        assert in_use(worker.engine).id == own_id


def test_a_new_release_replaces_an_adapter_that_its_base_cannot_run(tmp_path: Path) -> None:
    with rig(tmp_path / "w") as worker:
        old = shipped(tmp_path / "a", revision="sha256:1", weights=b"old")
        register_shipped(worker.engine, old, folder=tmp_path / "a")
        new = shipped(tmp_path / "b", revision="sha256:2", weights=b"new")
        register_shipped(worker.engine, new, folder=tmp_path / "b")
        assert in_use(worker.engine).base_revision == "sha256:2"
        assert register_shipped(worker.engine, old, folder=tmp_path / "b") == 0  # made for another base


def test_another_base_model_has_no_shipped_adapters(tmp_path: Path) -> None:
    identity = ModelIdentity(base_model="fake", revision="1", precision="fp32", adapter_sha256=None)
    with rig(tmp_path / "w") as worker:
        shipped(tmp_path / "a", revision="1")
        assert register_shipped(worker.engine, identity, folder=tmp_path / "a") == 0
