"""The pointer, its history and the refusals in the ledger, and the commands over them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import workers
from scanfleet.db.schema import ledger
from scanfleet.db.training import champions, refusals
from scanfleet.db.training.adapters import AdapterInfo, get_adapter, list_adapters, move_adapter, register_adapter
from scanfleet.errors import GateNotPassed, ScanfleetError, UnknownName
from scanfleet.models.adapters.card import WEIGHTS, AdapterCard, LoraSettings, read_adapter, write_adapter
from scanfleet.producer.cli.main import cli
from scanfleet.worker.scoring.factory import question_of

GATE = {
    "verdict": "promote",
    "reason": "better on 400 golden images",
    "results": [
        {"gate": "G1", "outcome": "pass", "title": "golden set", "words": "AP +0.040", "figures": {}},
        {"gate": "G4", "outcome": "fail", "title": "calibration", "words": "Brier +0.020", "figures": {}},
    ],
    "power": "400 images show a gain of 2 points",
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path / "data")) as engine:
        yield engine


def made(folder: Path, *, weights: bytes = b"one") -> AdapterInfo:
    check = load_check("overlay")
    card = AdapterCard(name="one", question=question_of(check), base_model="pocket", base_revision="sha256:1")
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=("q_proj",))
    written = write_adapter(folder, card=card, lora=lora, weights=weights)
    return AdapterInfo(
        check_name="overlay",
        check_hash=check.hash,
        base_model="pocket",
        base_revision="sha256:1",
        uri=str(folder),
        weights_sha256=written.weights_sha256,
        recipe={"name": "lora", "lr": 1e-4},
        metrics={
            "label_accuracy": {"value": 0.9, "n": 40, "low": 0.8, "high": 0.95},
            "recall_certificate": {"target": 0.95, "met": True},
            "precision_certificate": {"target": 0.9, "met": False},
        },
        calibrator={"a": 1.5, "b": -0.25, "n": 400, "prevalence": 0.5, "method": "platt"},
        thresholds={"review": -1.0, "flag": None},
        training_id=3,
        gate=GATE,
        gate_verdict="promote",
    )


def enter(engine: sa.Engine, adapter: AdapterInfo) -> int:
    with transaction(engine) as connection:
        return register_adapter(connection, adapter)


def three(engine: sa.Engine, folder: Path) -> list[int]:
    """Adapters that were put in use one after the other."""
    ids = [enter(engine, made(folder / word, weights=word.encode())) for word in ("one", "two", "three")]
    for adapter_id in ids:
        with transaction(engine) as connection:
            champions.promote(connection, adapter_id, kind="gate", why="better")
    return ids


def test_rolling_back_goes_back_step_by_step_and_a_promotion_goes_on_from_there(
    engine: sa.Engine, tmp_path: Path
) -> None:
    one, two, three_ = three(engine, tmp_path)

    def back() -> int | None:
        with transaction(engine) as connection:
            return champions.roll_back(connection, "overlay", "pocket", why="w", who="ann").adapter_id

    with transaction(engine) as connection:
        assert [each and each.id for each in champions.predecessors(connection, "overlay", "pocket")] == [two, one]
    assert back() == two
    with transaction(engine) as connection:
        assert [each and each.id for each in champions.predecessors(connection, "overlay", "pocket")] == [three_, one]
        champions.promote(connection, three_, kind="forced", why="after all")
    assert [back(), back(), back()] == [two, one, None]
    with pytest.raises(UnknownName, match="nothing to roll back to"):
        back()
    with transaction(engine) as connection:
        assert champions.in_use(connection) == {("overlay", "pocket"): None}
        assert champions.is_decided(connection, "overlay", "pocket")
        assert [each.kind for each in champions.history(connection, "overlay", "pocket", limit=2)] == ["rollback"] * 2


def test_what_came_into_use_in_order_may_come_back_without_force(engine: sa.Engine, tmp_path: Path) -> None:
    shipped, forced = (enter(engine, replace(made(tmp_path / w, weights=w.encode()), gate_verdict=None)) for w in "sf")
    with transaction(engine) as connection:
        champions.promote(connection, shipped, kind="shipped", why="ships")
        champions.promote(connection, forced, kind="forced", why="a person knows better")
        champions.roll_back(connection, "overlay", "pocket", why="did not", who="ann")
        champions.promote(connection, shipped, kind="person", why="back")
        assert champions.in_use(connection) == {("overlay", "pocket"): shipped}
        with pytest.raises(GateNotPassed, match="never judged it"):
            champions.promote(connection, forced, kind="person", why="again")


def test_the_base_alone_is_a_predecessor_once_it_was_decided(engine: sa.Engine, tmp_path: Path) -> None:
    one = enter(engine, made(tmp_path / "one"))
    with transaction(engine) as connection:
        champions.promote(connection, one, kind="gate", why="better")
        assert champions.predecessors(connection, "overlay", "pocket") == []
        champions.roll_back(connection, "overlay", "pocket", why="w", who=None)
        champions.promote(connection, one, kind="gate", why="better")
        assert champions.predecessors(connection, "overlay", "pocket") == [None]


def test_a_refusal_is_recorded_once_and_taken_back(engine: sa.Engine, tmp_path: Path) -> None:
    one = enter(engine, made(tmp_path / "one"))
    for _ in range(2):
        with transaction(engine) as connection:
            refusals.record_refusal(connection, one, worker="w", why="canary")
            refusals.take_back(connection, one, worker="other")
    with transaction(engine) as connection:
        (found,) = refusals.open_refusals(connection)
        assert (found.adapter_id, found.worker, found.why) == (one, "w", "canary")
        refusals.take_back(connection, one, worker="w")
        assert refusals.open_refusals(connection, one) == []
        refusals.record_refusal(connection, one, worker="w", why="again")
        assert [each.why for each in refusals.open_refusals(connection, one)] == ["again"]


def test_the_registry_lists_and_moves(engine: sa.Engine, tmp_path: Path) -> None:
    one = enter(engine, made(tmp_path / "one"))
    other = enter(engine, replace(made(tmp_path / "two", weights=b"two"), check_name="baggage"))
    with transaction(engine) as connection:
        move_adapter(connection, one, "s3://b/x")
        assert [each.id for each in list_adapters(connection)] == [other, one]
        assert [each.uri for each in list_adapters(connection, "overlay")] == ["s3://b/x"]
        assert get_adapter(connection, one).created_at is not None
        held = register_adapter(connection, replace(made(tmp_path / "3", weights=b"3"), gate_verdict="hold"))
        for kind in ("person", "gate"):
            with pytest.raises(GateNotPassed, match="says hold"):
                champions.promote(connection, held, kind=kind, why="w")


def run(tmp_path: Path, *arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["--data-dir", str(tmp_path / "data"), "adapters", *map(str, arguments)])
    found = result.exception.exit_code if isinstance(result.exception, ScanfleetError) else result.exit_code
    assert found == code, result.output
    return result


def test_the_commands_show_what_is_known(engine: sa.Engine, tmp_path: Path) -> None:
    one, two, three_ = three(engine, tmp_path)
    with transaction(engine) as connection:
        workers.start_worker(connection, worker="box-1", host="box", pid=1, queue="score.pocket", device="cpu")
        refusals.record_refusal(connection, three_, worker="box-1", why="the canary's margins moved")
        refusals.record_refusal(connection, three_, worker="long-gone", why="old")
    listed = run(tmp_path, "ls", "--check", "overlay")
    assert "label accuracy 0.900 of 40" in listed.stdout
    assert listed.stdout.count("in use") == 1
    assert f"adapter {three_} is in use for overlay, but worker box-1 refuses it" in listed.stderr
    assert "long-gone" not in listed.stderr
    rows = json.loads(run(tmp_path, "ls", "--format", "json").stdout)
    assert [(row["id"], row["in_use"]) for row in rows] == [(three_, True), (two, False), (one, False)]
    shown = run(tmp_path, "show", str(three_)).stdout
    for words in (
        "in use",
        "by training 3",
        "name lora, lr 0.0001",
        "label accuracy: 0.9 (0.8 to 0.95) of 40",
        "sigmoid(1.5 margin -0.25), fitted on 400 images",
        "margins at or below -1: a recall of 0.95 is certified",
        "never: a precision of 0.9 could not be certified at 50 % positives",
        "promote: better on 400 golden images",
        "G4  FAIL  calibration: Brier +0.020",
        "400 images show a gain of 2 points",
        "REFUSED   by box-1",
        f"gate: adapter {three_} replaces adapter {two}: better",
    ):
        assert words in shown
    record = json.loads(run(tmp_path, "show", str(three_), "--format", "json").stdout)
    assert record["gate"]["results"][0]["gate"] == "G1"
    assert [each["adapter_id"] for each in record["promotions"]] == [three_, two, one]
    assert "no adapter 99" in str(run(tmp_path, "show", "99", code=17).exception)


def test_the_other_places_that_list_workers_show_refusals_too(engine: sa.Engine, tmp_path: Path) -> None:
    *_, three_ = three(engine, tmp_path)
    with transaction(engine) as connection:
        workers.start_worker(connection, worker="box-1", host="box", pid=1, queue="score.pocket", device="cpu")
        refusals.record_refusal(connection, three_, worker="box-1", why="the canary's margins moved")
    answer = CliRunner().invoke(cli, ["--data-dir", str(tmp_path / "data"), "worker", "ls"])
    assert "worker box-1 refuses it" in answer.stderr
    from scanfleet.producer.local.doctor import check_services

    found = {each.name: each for each in check_services(load_settings(data_dir=tmp_path / "data"))}
    assert found["adapters"].status == "warn"
    assert "worker box-1 refuses it" in found["adapters"].text


def test_promote_and_rollback_by_hand(engine: sa.Engine, tmp_path: Path) -> None:
    one = enter(engine, made(tmp_path / "one"))
    held = enter(engine, replace(made(tmp_path / "two", weights=b"two"), gate_verdict="hold"))
    run(tmp_path, "promote", str(one), "--who", "ann")
    assert f"adapter {one} is already in use" in run(tmp_path, "promote", str(one)).stderr
    assert "the gate says hold" in str(run(tmp_path, "promote", str(held), code=23).exception)
    assert "--force needs --why" in run(tmp_path, "promote", str(held), "--force", code=2).stderr
    run(tmp_path, "promote", str(held), "--force", "--why", "old labels", "--who", "ann")
    back = run(tmp_path, "rollback", "--check", "overlay").stderr
    assert f"adapter {held} is out of use; adapter {one} answers" in back
    alone = run(tmp_path, "rollback", "--check", "overlay").stderr
    assert f"adapter {one} is out of use; the base model alone answers" in alone
    run(tmp_path, "rollback", "--check", "overlay", code=17)
    run(tmp_path, "rollback", "--check", "nothing", code=17)
    with transaction(engine) as connection:
        changes = champions.history(connection, "overlay", "pocket")
    assert [(each.kind, each.adapter_id) for each in reversed(changes)] == [
        ("person", one),
        ("forced", held),
        ("rollback", one),
        ("rollback", None),
    ]
    assert (changes[2].who, changes[2].why) == ("ann", "old labels")


def test_rollback_asks_which_base_where_there_are_several(engine: sa.Engine, tmp_path: Path) -> None:
    for base in ("a/b", "c/d"):
        adapter = enter(engine, replace(made(tmp_path / "one"), base_model=base))
        with transaction(engine) as connection:
            champions.promote(connection, adapter, kind="gate", why="better")
    assert "--model" in str(run(tmp_path, "rollback", "--check", "overlay", code=17).exception)
    run(tmp_path, "rollback", "--check", "overlay", "--model", "c/d")
    with transaction(engine) as connection:
        assert champions.in_use(connection, "c/d") == {("overlay", "c/d"): None}


def test_push_moves_the_registry_and_pull_brings_the_files_back(engine: sa.Engine, tmp_path: Path) -> None:
    one = enter(engine, made(tmp_path / "one"))
    place = tmp_path / "place"
    place.mkdir()
    assert "adapters_url" in str(run(tmp_path, "push", str(one), code=10).exception)
    uri = run(tmp_path, "push", str(one), str(place)).stdout.strip()
    with transaction(engine) as connection:
        adapter = get_adapter(connection, one)
    assert (adapter.uri, Path(uri).parent) == (uri, place)
    run(tmp_path, "pull", str(one), tmp_path / "pulled")
    assert read_adapter(tmp_path / "pulled").card.weights_sha256 == adapter.weights_sha256
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    run(tmp_path, "pull", str(one), tmp_path / "full", code=13)
    with transaction(engine) as connection:
        move_adapter(connection, one, made(tmp_path / "two", weights=b"two").uri)
    assert "other weights" in str(run(tmp_path, "pull", str(one), tmp_path / "other", code=13).exception)
    assert not (tmp_path / "other").exists()
    run(tmp_path, "push", str(one), str(place), code=13)
    (place / adapter.weights_sha256 / WEIGHTS).unlink()
    with transaction(engine) as connection:
        move_adapter(connection, one, "builtin://pocket/overlay")
    assert "ships with scanfleet" in str(run(tmp_path, "push", str(one), str(place), code=13).exception)
