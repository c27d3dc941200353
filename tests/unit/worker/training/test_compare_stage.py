"""The stages that calibrate a new adapter and compare it with the one in use, with the built-in model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.schema import ledger
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import register_adapter
from scanfleet.db.training.champions import promote
from scanfleet.models import pocket
from scanfleet.models.adapters.card import WEIGHTS, AdapterCard, read_adapter, read_card, write_adapter
from scanfleet.models.network.lora import save_lora
from scanfleet.models.recipes import load_recipe
from scanfleet.models.training.tasks.network import NAME, activated
from scanfleet.worker.evaluation import latency
from scanfleet.worker.scoring.adapters import info_of
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.training.compare_stage import compare
from scanfleet.worker.training.context import Context, run_stages
from scanfleet.worker.training.fit import ADAPTER, calibrate
from scanfleet.worker.training.progress import ProgressReporter
from scanfleet.worker.training.snapshot import images, snapshot
from scanfleet.worker.training.workspace import WorkFolder, folder_of
from tests.rigs.training_rig import label_pictures, request

CHECK = load_check("overlay")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", model="pocket", device="cpu")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    with ledger(settings) as engine:
        yield engine


@pytest.fixture
def context(
    settings: Settings, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    """A training that got as far as the projector's adapter, number 7, untrained."""
    monkeypatch.setattr(latency, "ROUNDS", 1)
    label_pictures(engine, tmp_path / "pictures")
    training_id = request(engine)
    with transaction(engine) as connection:
        held = trainings.claim(connection, worker="w", base_model="pocket", lease_seconds=60)
    assert held is not None
    with closing(WorkFolder(folder_of(settings, training_id), {"id": training_id})) as work:
        context = Context(
            settings=settings,
            engine=engine,
            training=held,
            check=CHECK,
            question=question_of(CHECK),
            work=work,
            progress=ProgressReporter(lambda kind, **fields: None),
        )
        run_stages(context, (("snapshot", snapshot), ("images", images)))
        base = context.base
        card = AdapterCard(
            name="challenger",
            question=context.question,
            base_model="pocket",
            base_revision=base.checkpoint.revision,
        )
        with activated(base, load_recipe("projector"), seed=1) as active:
            save_lora(tmp_path / "challenger", active.peft, card=card, lora=active.lora, name=NAME)
        context.results["publish"] = {"adapter_id": 7, "folder": str(tmp_path / "challenger")}
        context.scorer(tmp_path / "challenger")  # the canary's stage has loaded it
        yield context


@pytest.fixture
def champion(engine: sa.Engine, context: Context, tmp_path: Path) -> Path:
    """The folder of the adapter in use, number 1: a copy of the shipped one."""
    folder = tmp_path / "champion"
    shutil.copytree(pocket.adapter_folder("overlay"), folder)
    with transaction(engine) as connection:
        adapter_id = register_adapter(connection, info_of(read_card(folder), CHECK, uri=str(folder)))
        promote(connection, adapter_id, kind="forced", why="a test", who="ann")
    assert adapter_id == 1
    return folder


def asking_otherwise(context: Context, **changes: object) -> Check:
    context.check = CHECK.model_copy(update=changes)
    context.question = question_of(context.check)
    return context.check


@pytest.mark.usefixtures("champion")
def test_an_adapter_that_trained_the_projector_whole_is_compared_with_the_champion(context: Context) -> None:
    found = compare(context)
    assert (found["gate"]["champion"], found["problem"]) == ("adapter 1", None)
    assert found["gate"]["n_golden"] == 27  # few golden images: those of calibration and threshold judge as well
    assert found["gate"]["results"][0]["outcome"] == "pass"  # and no training learnt from them
    assert any("fewer than 300 golden images" in line for line in found["lines"])
    assert found["gate"]["figures"]["champion"]["auroc"] > 0.9


@pytest.mark.parametrize(("shared", "n"), [(True, 27), (False, 18)])
def test_few_golden_images_calibrate_as_well(context: Context, shared: bool, n: int) -> None:
    shutil.copytree(context.results["publish"]["folder"], context.work.path / ADAPTER)
    context.results["snapshot"]["shared"] = shared
    assert calibrate(context)["metrics"]["certified_on"] == n


def test_a_champion_that_cannot_be_loaded_holds_by_name(context: Context, champion: Path) -> None:
    weights = bytearray((champion / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (champion / WEIGHTS).write_bytes(bytes(weights))
    found = compare(context)
    assert (found["gate"]["verdict"], found["gate"]["champion"], found["champion_id"]) == ("hold", "adapter 1", 1)
    assert "adapter 1, which is in use, cannot be loaded here" in found["problem"]
    assert "restore the file" in found["lines"][0]
    assert "base alone" not in " ".join(found["lines"])


@pytest.mark.usefixtures("champion")
def test_enough_golden_images_judge_alone(context: Context) -> None:
    context.results["snapshot"]["shared"] = False
    found = compare(context)
    assert found["gate"]["n_golden"] == 9
    assert not any("fewer than" in line for line in found["lines"])


@pytest.mark.usefixtures("champion")
def test_a_champion_answers_under_another_pixel_budget_as_it_does_in_scans(context: Context) -> None:
    asking_otherwise(context, max_pixels=CHECK.max_pixels // 2)
    challenger = Path(context.results["publish"]["folder"])
    assert read_card(challenger).question != context.question
    found = compare(context)
    assert (found["gate"]["champion"], found["problem"]) == ("adapter 1", None)


@pytest.mark.usefixtures("champion")
def test_where_scans_use_the_base_alone_the_comparison_does(context: Context) -> None:
    """A new prompt: the old champion answers no scan of it, and must not keep its successor away."""
    asking_otherwise(context, prompt="Was text added to this picture?")
    folder = Path(context.results["publish"]["folder"])
    held = read_adapter(folder)
    card = held.card.model_copy(update={"question": context.question})
    write_adapter(folder, card=card, lora=held.lora, weights=held.weights)
    found = compare(context)
    assert found["gate"]["champion"] == "base alone"
    assert "adapter 1 was trained on another question" in found["lines"][1]
