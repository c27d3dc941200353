"""The stages of a training one by one, without a model: labels, images, the work folder, the pointer."""

import errno
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels
from scanfleet.db.labels.queries import PINNED, SYNTHETIC
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Adapter, Label, LabelledImage, Training
from scanfleet.db.training import trainings
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import champion, promote
from scanfleet.errors import DeviceUnavailable, LeaseLost, StoreUnavailable, TrainingFailed
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.pocket import adapter_folder
from scanfleet.models.training.data.types import Example
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.evaluation import held_out
from scanfleet.worker.evaluation.images import Labelled, materialise
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.training import snapshot
from scanfleet.worker.training.child import outcome_of
from scanfleet.worker.training.context import Context, run_stages
from scanfleet.worker.training.fit import _stamped, _training_figures
from scanfleet.worker.training.progress import ProgressReporter, ProgressTracker, StopRequested
from scanfleet.worker.training.publish import finish
from scanfleet.worker.training.workspace import WorkFolder, folder_of, sweep
from tests.rigs.forbidding_store import Forbidding
from tests.rigs.training_children import nothing, publish
from tests.rigs.training_rig import label_pictures, request
from tests.rigs.worker_rig import png, rig

QUESTION = question_of(load_check("overlay"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", model="pocket")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    with ledger(settings) as engine:
        yield engine


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def context(settings: Settings, engine: sa.Engine, tmp_path: Path, sent: list[dict[str, Any]]) -> Iterator[Context]:
    """A claimed training on 54 labelled pictures."""
    label_pictures(engine, tmp_path / "pictures")
    training_id = request(engine)
    with transaction(engine) as connection:
        held = trainings.claim(connection, worker="w", base_model="pocket", lease_seconds=60)
    assert held is not None

    def send(kind: str, **fields: Any) -> None:
        sent.append({"kind": kind, **fields})

    with closing(WorkFolder(folder_of(settings, training_id), {"id": training_id})) as work:
        yield Context(
            settings=settings,
            engine=engine,
            training=held,
            check=load_check("overlay"),
            question=QUESTION,
            work=work,
            progress=ProgressReporter(send),
        )


def example(key: str, label: int, *, cluster: str | None = None) -> Example:
    return Example(key=key, path=Path(key), label=label, cluster=cluster or key)


def labelled(number: int, store: MemoryStore, **fields: Any) -> Labelled:
    """A picture in a store, and its label."""
    data = png(number)
    store.objects[f"mem://{number}"] = data
    sha256 = hashlib.sha256(data).hexdigest()
    made = Labelled(content_sha256=sha256, uri=f"mem://{number}", root=None, label="none", boxes=None, cluster=sha256)
    return replace(made, **fields)


def test_the_snapshot_and_its_images_are_the_current_labels(context: Context) -> None:
    run_stages(context, (("snapshot", snapshot.snapshot), ("images", snapshot.images)))
    counted = context.results["images"]["labels"]
    assert {split: sum(each.values()) for split, each in counted.items()} == {
        "train": 27,
        "calibration": 9,
        "threshold": 9,
        "golden": 9,
    }
    golden = snapshot.examples_of(context, "golden")
    assert [one.key for one in golden] == sorted(one.key for one in golden)
    assert golden[0].open(golden[0].path).size == (128, 128)
    assert Counter(QUESTION.labels[one.label] for one in golden) == {"overlay": 3, "natural": 3, "none": 3}


@pytest.mark.parametrize(
    ("enough", "origin", "shared"), [(10, "import", True), (9, "import", False), (10, PINNED, False)]
)
def test_few_golden_images_share_their_work_unless_people_chose_them(
    context: Context, monkeypatch: pytest.MonkeyPatch, enough: int, origin: str, shared: bool
) -> None:
    monkeypatch.setattr(held_out, "ENOUGH_GOLDEN", enough)
    golden = sa.select(LabelledImage.content_sha256).where(LabelledImage.split == "golden")
    with transaction(context.engine) as connection:
        of_golden = Label.content_sha256.in_(golden)
        connection.execute(sa.update(Label).where(of_golden).values(origin=origin))
    run_stages(context, (("snapshot", snapshot.snapshot),))
    assert context.results["snapshot"]["shared"] is shared


def test_generated_images_are_used_up_to_their_share_even_if_a_person_labels_them(context: Context) -> None:
    train = sa.select(LabelledImage.content_sha256).where(LabelledImage.split == "train")
    with transaction(context.engine) as connection:
        of_train = sa.select(Label.content_sha256).where(Label.content_sha256.in_(train), Label.label != "overlay")
        made = connection.execute(of_train.order_by(Label.content_sha256)).scalars().all()[::3]
        of_made = Label.content_sha256.in_(made)
        connection.execute(sa.update(Label).where(of_made).values(origin=SYNTHETIC, who="scanfleet", label="none"))
        again = [NewLabel(content_sha256=sha, label="none", who="ann", origin="person") for sha in made]
        newest = add_labels(connection, "overlay", again)[-1]
    context.training = replace(context.training, newest_label=newest)
    context.settings = context.settings.model_copy(update={"train_synthetic_share": 0.1})
    run_stages(context, (("snapshot", snapshot.snapshot), ("images", snapshot.images)))
    figures, learn = context.results["images"], snapshot.with_validation(snapshot.examples_of(context, "train"))[0]
    assert 0 < figures["generated"] <= 0.1 * len(learn)
    assert figures["left_out"] == {"generated": len(made) - figures["generated"]}
    assert sum(example.key in made for example in learn) == figures["generated"]


def test_labels_newer_than_the_training_are_ignored(context: Context) -> None:
    context.training = replace(context.training, newest_label=53)
    run_stages(context, (("snapshot", snapshot.snapshot),))
    assert sum(sum(each.values()) for each in context.results["snapshot"]["labels"].values()) == 53


def test_too_few_labels_are_refused_with_the_missing_numbers() -> None:
    pairs = [("train", "overlay")] * 3 + [("train", "none")] * 8
    pairs += [("calibration", "natural"), ("calibration", "none")] * 2  # these two splits serve together
    pairs += [("threshold", "overlay")] * 3
    with pytest.raises(TrainingFailed) as refused:
        snapshot.require_enough(QUESTION, pairs, left_out={"gone": 5})
    assert re.findall(r"(\w+) ha\w+ (\d) of ([\w ]+) and needs? (\d)", str(refused.value)) == [
        ("train", "3", "overlay", "8"),
        ("threshold", "3", "overlay", "4"),
        ("golden", "0", "overlay", "2"),
        ("golden", "0", "natural or none", "2"),
    ]
    assert "calibration and threshold have 3 of overlay and need 4" in str(refused.value)
    assert "5 gone" in str(refused.value)
    enough = (
        pairs
        + [("calibration", "overlay")]
        + [("train", "overlay")] * 5
        + [("golden", "overlay"), ("golden", "none")] * 2
    )
    snapshot.require_enough(QUESTION, enough)


def test_images_that_are_gone_or_changed_are_left_out_and_counted(settings: Settings, tmp_path: Path) -> None:
    store = MemoryStore()
    box = {"x0": 1, "y0": 2, "x1": 3, "y1": 4.5, "label": "overlay"}
    wanted = [labelled(number, store, boxes=[box]) for number in range(6)]
    del store.objects["mem://1"]
    store.objects["mem://2"] = png(99)
    store.objects["mem://3"] = b"no image"
    wanted[3] = replace(wanted[3], content_sha256=hashlib.sha256(b"no image").hexdigest())
    wanted[4] = replace(wanted[4], label="a label of another version")
    counts: list[tuple[int, int]] = []
    examples, left_out = materialise(
        settings,
        wanted,
        tmp_path / "images",
        QUESTION,
        watch=lambda done, total: counts.append((done, total)),
        stores=lambda *_: store,
    )
    assert left_out == {"changed": 1, "gone": 1, "not_an_image": 1, "unknown_label": 1}
    assert [one.key for one in examples] == [wanted[0].content_sha256, wanted[5].content_sha256]
    assert (examples[0].boxes[0].y1, examples[0].boxes[0].label) == (4.5, "overlay")
    assert {path.name for path in (tmp_path / "images").iterdir()} == {one.key for one in examples}
    assert counts[-1] == (5, 5)


def test_an_unavailable_store_is_no_missing_image_and_fetched_files_stay(settings: Settings, tmp_path: Path) -> None:
    store = MemoryStore()
    wanted = [labelled(number, store) for number in range(3)]
    materialise(settings, wanted[:1], tmp_path, QUESTION, stores=lambda *_: store)
    store.down = True
    with pytest.raises(StoreUnavailable):
        materialise(settings, wanted, tmp_path, QUESTION, stores=lambda *_: store)
    examples, left_out = materialise(settings, wanted[:1], tmp_path, QUESTION, stores=lambda *_: store)
    assert (len(examples), left_out) == (1, {})


@pytest.mark.parametrize("n_before", [0, 2])  # images that an earlier attempt has kept
def test_an_object_that_alone_is_refused_is_left_out(settings: Settings, tmp_path: Path, n_before: int) -> None:
    store = Forbidding()
    wanted = [labelled(number, store) for number in range(3)]
    materialise(settings, wanted[:n_before], tmp_path, QUESTION, stores=lambda *_: store)
    store.refuses = wanted[2].uri.__eq__
    examples, left_out = materialise(settings, wanted, tmp_path, QUESTION, stores=lambda *_: store)
    assert ([example.key for example in examples], left_out) == (
        [each.content_sha256 for each in wanted[:2]],
        {"denied": 1},
    )
    store.refuses = lambda _: True
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        materialise(settings, wanted, tmp_path, QUESTION, stores=lambda *_: store)


def test_the_held_out_part_is_whole_clusters_and_stays_as_labels_grow() -> None:
    few = [example(f"{number}", number % 3, cluster=f"c{number // 2}") for number in range(200)]
    learn, stop = snapshot.with_validation(few)
    assert len(learn) + len(stop) == 200
    assert not {one.cluster for one in learn} & {one.cluster for one in stop}
    assert 10 <= len(stop) <= 50
    _, later = snapshot.with_validation([*few, *(example(f"n{number}", 0) for number in range(100))])
    assert {one.key for one in stop} <= {one.key for one in later}
    learn, stop = snapshot.with_validation([example("a", 0), example("b", 1)])
    assert len(stop) == 1


def test_a_finished_stage_is_not_repeated(context: Context, sent: list[dict[str, Any]]) -> None:
    calls = Counter[str]()

    def stage(name: str, *, fails: bool = False) -> Any:
        def run(_: Context) -> dict[str, Any]:
            calls[name] += 1
            if fails:
                raise StoreUnavailable("away")
            return {"by": name}

        return name, run

    with pytest.raises(StoreUnavailable):
        run_stages(context, (stage("one"), stage("two", fails=True)))
    context.results = {}
    run_stages(context, (stage("one"), stage("two"), stage("three")))
    assert calls == {"one": 1, "two": 2, "three": 1}
    assert context.results["one"]["by"] == "one"
    assert [each["stage"] for each in sent] == ["one", "two", "one", "two", "three"]


def test_a_diverged_loss_is_no_crash(context: Context, sent: list[dict[str, Any]]) -> None:
    def stage(context: Context) -> dict[str, Any]:
        context.progress.begin("fit", 0)
        context.progress._sent_at = 0.0
        context.progress.report(step=3, loss=math.nan)
        return {"history": ({"loss": math.nan, "step": 3},), "best": -math.inf}

    run_stages(context, (("fit", stage),))
    assert sent[-1]["figures"] == {"step": 3}
    written = context.work.result("fit")
    assert written is not None
    assert (written["history"], written["best"]) == ([{"loss": None, "step": 3}], None)


def test_a_request_to_stop_ends_it_at_the_next_report(context: Context) -> None:
    stopping = False

    def stage(context: Context) -> dict[str, Any]:
        nonlocal stopping
        stopping = True
        context.progress.report(step=1)
        raise AssertionError("not stopped")

    context.progress = ProgressReporter(lambda *_, **__: None, stop=lambda: stopping)
    with pytest.raises(StopRequested):
        run_stages(context, (("fit", stage),))
    assert context.work.result("fit") is None


def test_the_folder_of_another_training_with_the_same_number_is_emptied(tmp_path: Path) -> None:
    with closing(WorkFolder(tmp_path, {"id": 1, "newest_label": 10})) as work:
        work.settle("fit", {"weights_sha256": "of the first"})
        with pytest.raises(DeviceUnavailable, match=re.escape(str(tmp_path))):
            WorkFolder(tmp_path, {"id": 1, "newest_label": 10})
    with closing(WorkFolder(tmp_path, {"id": 1, "newest_label": 10})) as work:
        assert work.result("fit") == {"weights_sha256": "of the first"}
    with closing(WorkFolder(tmp_path, {"id": 1, "newest_label": 11})) as work:
        assert work.result("fit") is None


def test_sweeping_keeps_the_report_and_spares_a_folder_in_use(tmp_path: Path) -> None:
    with closing(WorkFolder(tmp_path, {"id": 1})) as work:
        work.write("report.json", {})
        work.settle("fit", {})
        (tmp_path / "images").mkdir()
        sweep(tmp_path)
        assert work.result("fit") == {}
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "report.json", "training.json"]


STAGES = (("images", nothing), ("fit", lambda _: {"weights_sha256": "1" * 64}), ("calibrate", nothing))


def judged(verdict: str, *, before: Any = lambda _: None) -> Any:
    """A stage that compares with the current champion. before: called right after that is read."""

    def compare(context: Context) -> dict[str, Any]:
        with reading(context.engine) as connection:
            in_use = champion(connection, "overlay", "pocket")
        before(context)
        gate = {"verdict": verdict, "reason": "a test"}
        found = {"gate": gate, "lines": [], "problem": None, "shadow": None}
        return found | {"champion_id": None if in_use is None else in_use.id}

    return (*STAGES, ("publish", publish), ("compare", compare))


def other_adapter(engine: sa.Engine) -> int:
    """Another adapter, promoted by force."""
    info = AdapterInfo(
        check_name="overlay", check_hash="h", base_model="pocket", base_revision="r", uri="/x", weights_sha256="2" * 64
    )
    with transaction(engine) as connection:
        adapter_id = register_adapter(connection, info)
        promote(connection, adapter_id, kind="forced", why="a test", who="ann")
    return adapter_id


def in_use(engine: sa.Engine) -> int | None:
    with reading(engine) as connection:
        found = champion(connection, "overlay", "pocket")
    return None if found is None else found.id


def test_a_promotion_settles_training_adapter_and_pointer_at_once(context: Context) -> None:
    assert finish(context, judged("promote")) == "promote"
    with reading(context.engine) as connection:
        found = trainings.get(connection, context.training.id)
    assert (found.state, found.verdict, found.adapter_id) == ("done", "promote", in_use(context.engine))
    assert found.report is not None
    assert set(found.report["seconds"]) == {"images", "fit", "calibrate", "publish", "compare"}


@pytest.mark.parametrize("verdict", ["hold", "reject"])
def test_what_the_gate_does_not_promote_is_registered_and_not_in_use(context: Context, verdict: str) -> None:
    before = other_adapter(context.engine)
    assert finish(context, judged(verdict)) == verdict
    assert in_use(context.engine) == before
    with reading(context.engine) as connection:
        found = trainings.get(connection, context.training.id)
    assert (found.state, found.verdict, found.champion_id) == ("done", verdict, before)


@pytest.mark.parametrize("verdict", ["promote", "hold"])
def test_the_comparison_is_repeated_with_a_champion_that_changed_meanwhile(context: Context, verdict: str) -> None:
    moved: list[int] = []

    def promote_another(context: Context) -> None:
        if not moved:
            moved.append(other_adapter(context.engine))

    assert finish(context, judged(verdict, before=promote_another)) == verdict
    with reading(context.engine) as connection:
        found = trainings.get(connection, context.training.id)
    assert found.champion_id == moved[0]
    assert in_use(context.engine) == (found.adapter_id if verdict == "promote" else moved[0])


def test_a_lost_lease_neither_registers_nor_promotes(context: Context) -> None:
    with transaction(context.engine) as connection:
        connection.execute(sa.update(Training).values(lease_token=Training.lease_token + 1))
    with pytest.raises(LeaseLost):
        finish(context, judged("promote"))
    with reading(context.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Adapter)).scalar_one() == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StopRequested(), "stopped"),
        (LeaseLost("late"), "lost"),
        (StoreUnavailable("away"), "waits"),
        (ModelUnavailable("the hub is away"), "waits"),
        (OSError(errno.ENOSPC, "No space left on device", "/data"), "waits"),
        (TrainingFailed("too few"), "failed"),
        (ModelInvalid("no such recipe"), "failed"),
        (FileNotFoundError(errno.ENOENT, "a bug", "/x"), "crashed"),
        (ZeroDivisionError(), "crashed"),
    ],
)
def test_an_error_means_one_outcome(error: Exception, kind: str) -> None:
    assert outcome_of(error)[0] == kind


def test_getting_further_resets_the_count_of_crashes() -> None:
    tracker = ProgressTracker("fit", {"furthest": [2, 40], "crashes": 2, "step": 40})
    assert tracker.update("images", 1, {"step": 7})
    assert not tracker.update("images", 1, {"step": 8})
    assert tracker.current() == ("images", {"step": 8, "furthest": [2, 40], "crashes": 2})
    tracker.update("fit", 2, {"step": 41, "loss": 0.5})
    assert tracker.current() == ("fit", {"step": 41, "loss": 0.5, "furthest": [2, 41]})


def test_the_shadow_set_is_sampled_from_scored_images_without_a_label(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        worker.scan({f"mem://{number}": png(number) for number in range(12)})
        worker.scan({f"mem://copy{number}": png(number) for number in range(3)})
        worker.drain()
        with reading(worker.engine) as connection:
            sample = recent_unlabelled(connection, "overlay", limit=6, seed=0)
            repeated = recent_unlabelled(connection, "overlay", limit=6, seed=0)
            other = recent_unlabelled(connection, "overlay", limit=6, seed=1)
            every = recent_unlabelled(connection, "overlay", limit=100, seed=0)
            assert recent_unlabelled(connection, "baggage", limit=6, seed=0) == []
        known = NewLabel(content_sha256=sample[0].content_sha256, label="none", who="ann", origin="import")
        with transaction(worker.engine) as connection:
            add_labels(connection, "overlay", [known])
            left = recent_unlabelled(connection, "overlay", limit=100, seed=0)
    assert sample == repeated != other
    assert len({one.content_sha256 for one in sample}) == 6
    assert len(every) == 12
    assert {one.content_sha256 for one in every} - {one.content_sha256 for one in left} == {known.content_sha256}


def test_an_adapter_keeps_the_least_size_and_the_order_that_it_learnt_under(context: Context) -> None:
    learnt = replace(QUESTION, order="instruction-first")  # as the built-in model did
    assert _stamped(context, (), None) == learnt
    context.question = replace(QUESTION, order="image-first")
    assert _stamped(context, (), None) == context.question
    context.question = replace(QUESTION, min_pixels=None)
    context.base.processor.reader.image_processor.size["shortest_edge"] = 65_536
    assert _stamped(context, (), None).min_pixels == 65_536
    assert _stamped(context, (), adapter_folder("overlay")) == learnt


def test_an_adapter_without_effect_is_reported_with_its_training_figures() -> None:
    words = _training_figures({"learnt_from": 244, "history": [{"loss": 0.75}, {"loss": 0.7}]}, QUESTION)
    assert "244 training images, loss 0.70 in the last epoch, 1.10 by guessing" in words
    assert "full-lora" in words
    tried = {"learnt_from": 244, "history": [{"loss": 0.7}], "tried": {"pocket-lora": 1.0, "pocket-full": 0.9}}
    assert "--recipe" not in _training_figures(tried, QUESTION)
    assert _training_figures({"learnt_from": 244, "history": [{"loss": None}]}, QUESTION) == ""  # it diverged
