"""`scanfleet train`: asked for, listed, followed, ended; and what a training worker refuses to begin with."""

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import workers
from scanfleet.db.schema import ledger
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.trainings import AlreadyUnderWay, TrainingInfo
from scanfleet.errors import BadSettings, GateNotPassed, RequestError, TrainingFailed, UnknownName
from scanfleet.producer.cli.main import cli
from scanfleet.producer.training import trainings as words
from scanfleet.worker.processes.train_worker import find_base
from tests.rigs.training_rig import label_pictures, request


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, model="pocket")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    with ledger(settings) as engine:
        yield engine


def train(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--data-dir", str(data_dir), *arguments])


def claim(engine: sa.Engine) -> TrainingInfo:
    with transaction(engine) as connection:
        held = trainings.claim(connection, worker="t", base_model="pocket", lease_seconds=60)
    assert held is not None
    return held


def settle(engine: sa.Engine, held: TrainingInfo, **how: Any) -> None:
    with transaction(engine) as connection:
        trainings.settle(connection, held, **how)


def enter(engine: sa.Engine, *, check: str = "overlay") -> int:
    made = {"base_model": "pocket", "base_revision": "r", "uri": "/nowhere", "weights_sha256": "0" * 64}
    with transaction(engine) as connection:
        return register_adapter(connection, AdapterInfo(check_name=check, check_hash="c", **made))


def test_a_training_is_asked_for_once_listed_and_cancelled(engine: sa.Engine, tmp_path: Path) -> None:
    asked = (
        "train",
        "start",
        "--check",
        "overlay",
        "--recipe",
        "head",
        "--set",
        "lr=1e-3",
        "--over",
        str(enter(engine)),
        "--seed",
        "4",
    )
    refused = train(tmp_path, *asked)
    assert isinstance(refused.exception, TrainingFailed)
    label_pictures(engine, tmp_path / "pictures", n=3)
    started = train(tmp_path, *asked)
    assert (started.exit_code, started.stdout) == (0, "1\n")
    assert "no live training worker" in started.stderr
    assert isinstance(train(tmp_path, *asked).exception, AlreadyUnderWay)
    (listed,) = json.loads(train(tmp_path, "train", "ls", "--format", "json").stdout)
    assert (listed["recipe"], listed["overrides"], listed["seed"]) == ("head", {"lr": 0.001, "over": 1}, 4)
    assert (listed["newest_label"], listed["state"]) == (3, "ready")
    assert "waiting for a training worker" in train(tmp_path, "train", "ls").stdout
    assert "training 1 is cancelled" in train(tmp_path, "train", "cancel", "1").stderr
    assert "had already ended" in train(tmp_path, "train", "cancel", "1").stderr
    followed = train(tmp_path, "train", "watch", "1")
    assert isinstance(followed.exception, TrainingFailed)
    assert str(followed.exception) == "training 1 was cancelled"
    assert isinstance(train(tmp_path, "train", "show", "9").exception, UnknownName)


def test_a_training_under_way_is_called_so_and_programs_get_the_state(engine: sa.Engine, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures", n=1)
    request(engine)
    claim(engine)
    row = train(tmp_path, "train", "ls").stdout.splitlines()[1]
    assert re.split(r"\s{2,}", row.strip())[4:6] == ["training", "starting"]
    assert "training: starting" in train(tmp_path, "train", "show", "1").stdout
    assert json.loads(train(tmp_path, "train", "ls", "--format", "json").stdout)[0]["state"] == "leased"


REFUSED = {
    ("--recipe", "nope"): "no recipe 'nope'; choose one of",
    ("--set", "nonsense=3"): "recipe pocket-lora: no field nonsense",
    ("--recipe", "lora", "--set", "epochs=1.5"): "recipe lora: epochs: ",
    ("--over", "1"): "recipe auto trains no head",
    ("--recipe", "head", "--over", "1"): "adapter 1 is for check baggage on pocket, not for overlay on pocket",
    ("--recipe", "head", "--set", "over=x"): "over=x: give the id of an adapter",
    ("--from", "1"): "adapter 1 is for check baggage on pocket, not for overlay on pocket",
    ("--from", "champion"): "no adapter of check overlay is in use on pocket",
    ("--from", "the best"): "from=the best: give the id of an adapter",
    ("--recipe", "head", "--from", "1"): "recipe head trains a head alone: name the adapter under it with --over",
}


def test_what_a_worker_would_refuse_is_refused_at_once_also_while_another_training_runs(
    engine: sa.Engine, tmp_path: Path
) -> None:
    label_pictures(engine, tmp_path / "pictures", n=1)
    request(engine)
    enter(engine, check="baggage")
    for asked, expected in REFUSED.items():
        refused = train(tmp_path, "train", "start", "--check", "overlay", "--model", "pocket", *asked)
        assert isinstance(refused.exception, RequestError)
        told = str(refused.exception)
        assert (told.startswith(expected), refused.exception.exit_code, refused.stdout) == (True, 2, ""), told
        assert "\n" not in told


def test_a_recipe_that_needs_the_image_first_is_refused_for_another_order(engine: sa.Engine, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures", n=1)
    text = (resources.files("scanfleet") / "builtin" / "overlay.toml").read_text(encoding="utf-8")
    for order in ("instruction-first", "image-first"):
        (tmp_path / f"{order}.toml").write_text(f'order = "{order}"\n{text}', encoding="utf-8")
    asked = ("train", "start", "--recipe", "alora", "--check")
    refused = train(tmp_path, *asked, str(tmp_path / "instruction-first.toml"))
    assert isinstance(refused.exception, RequestError)
    expected = (
        'recipe alora trains image-first, and check overlay has order = "instruction-first": remove it, or choose'
    )
    assert str(refused.exception).startswith(expected)
    assert train(tmp_path, *asked, str(tmp_path / "image-first.toml")).exit_code == 0


def test_an_adapter_to_train_over_must_be_there(engine: sa.Engine, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures", n=1)
    refused = train(tmp_path, "train", "start", "--check", "overlay", "--recipe", "head", "--over", "99")
    assert isinstance(refused.exception, UnknownName)


def test_where_the_recipes_are_not_installed_a_worker_finds_their_problems(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="no recipe"):
        words.require_recipe("nope", "pocket", {})
    monkeypatch.setattr(words.sys, "executable", "/bin/false")
    words.require_recipe("nope", "pocket", {})


def test_a_table_has_the_beginning_of_a_reason_and_show_all_of_it(engine: sa.Engine, tmp_path: Path) -> None:
    request(engine)
    settle(engine, claim(engine), error="x" * 80 + "end")
    listed = train(tmp_path, "train", "ls").stdout
    assert "x" * 79 + "…" in listed
    assert "x" * 80 not in listed
    assert "x" * 80 + "end" in train(tmp_path, "train", "show", "1").stdout


def test_a_notification_goes_out_with_the_request(engine: sa.Engine, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures", n=1)
    assert train(tmp_path, "train", "start", "--check", "overlay").exit_code == 0
    (message,) = (tmp_path / "broker" / "messages").glob("*.msg")
    assert "refresh_adapter" in message.read_text()


def test_holding_is_an_outcome_and_an_error_only_where_that_is_asked(engine: sa.Engine, tmp_path: Path) -> None:
    request(engine)
    gate = {"verdict": "hold", "reason": "G2 better: undecided"}
    report = {"gate": gate, "lines": ["hold: G2 better: undecided"], "labels": {"train": {"none": 4}}}
    settle(engine, claim(engine), verdict="hold", adapter_id=7, report=report)
    followed = train(tmp_path, "train", "watch", "1")
    assert followed.exit_code == 0
    assert "training 1: hold: adapter 7 is registered, not in use: G2 better: undecided" in followed.stderr
    assert isinstance(train(tmp_path, "train", "watch", "1", "--strict").exception, GateNotPassed)
    assert "trainings/1/report.html in the data folder of its worker" in followed.stderr
    (tmp_path / "trainings" / "1").mkdir(parents=True)
    shown = train(tmp_path, "train", "show", "1").stdout
    assert f"page      {tmp_path}/trainings/1/report.html" in shown
    assert "labels    4 train" in shown
    assert shown.endswith("hold: G2 better: undecided\n")


def test_why_a_training_failed_is_the_error_of_whoever_waits(engine: sa.Engine, tmp_path: Path) -> None:
    request(engine)
    settle(engine, claim(engine), error="too few labelled images")
    followed = train(tmp_path, "train", "watch", "1")
    assert isinstance(followed.exception, TrainingFailed)
    assert str(followed.exception) == "training 1 failed: too few labelled images"


def test_workers_are_listed_with_the_training_they_are_at(engine: sa.Engine, tmp_path: Path) -> None:
    request(engine)
    with transaction(engine) as connection:
        workers.start_worker(connection, worker="t", host="h", pid=1, queue="train", device="cpu")
        workers.start_worker(connection, worker="u", host="h", pid=2, queue="train", device="cpu")
    held = claim(engine)
    with transaction(engine) as connection:
        trainings.beat(connection, held, lease_seconds=60, stage="fit", progress=None)
    listed = train(tmp_path, "worker", "ls").stdout.splitlines()
    assert listed[1].endswith("training 1 (fit)")
    assert listed[2].endswith("-")
    (first, second) = json.loads(train(tmp_path, "worker", "ls", "--format", "json").stdout)
    assert (first["training"], second["training"]) == (1, None)


def test_progress_comes_with_loss_and_time_left(engine: sa.Engine) -> None:
    request(engine)
    held = claim(engine)
    figures = {"step": 40, "steps": 150, "epoch": 3, "epochs": 10, "loss": 0.52131, "seconds_left": 31.4}
    with transaction(engine) as connection:
        trainings.beat(connection, held, lease_seconds=60, stage="fit", progress=figures)
        now = trainings.get(connection, held.id)
    assert words.progress_text(now) == "fit, step 40 of 150, epoch 3 of 10, loss 0.5213, about 31 s left"
    with transaction(engine) as connection:
        trainings.wait(connection, held, waiting_for="the bucket is away", progress={})
        now = trainings.get(connection, held.id)
    assert words.progress_text(now) == "waiting for: the bucket is away"


@pytest.mark.parametrize("setting", ["lr", "=3", " =3"])
def test_a_setting_without_name_or_value_is_refused(setting: str) -> None:
    with pytest.raises(RequestError, match="write FIELD=VALUE"):
        words.parse_overrides([setting], over=None)


@pytest.mark.parametrize("model", ["fake", "endpoint:gpt", "./no-such-folder"])
def test_a_worker_refuses_a_model_that_cannot_be_trained(tmp_path: Path, model: str) -> None:
    with pytest.raises(BadSettings, match="model: "):
        find_base(load_settings(data_dir=tmp_path, model=model))


def test_a_failed_training_shows_its_figures_and_what_helps(engine: sa.Engine, tmp_path: Path) -> None:
    request(engine)
    fit = {"tried": {"pocket-lora": 1.07, "pocket-full": None}, "chance": 1.0986, "learnt_from": 240}
    report = {"fit": fit, "canary": {"mean_effect": 0.242, "least_effect": 0.5}}
    settle(engine, claim(engine), error="cannot be learnt", report=report)
    shown = " ".join(train(tmp_path, "train", "show", "1").stdout.split())
    assert "loss 1.07 by recipe pocket-lora, diverged by recipe pocket-full, 1.10 by guessing, from 240" in shown
    assert "moved the base's margins by 0.242 logits on average, 0.5 are needed" in shown
    assert "again by itself after a fifth more labels (20 at least)" in shown
    assert "`scanfleet train start --check overlay`" in shown
