"""Champions in a running worker, on the pocket model: made ready beside the batches, refused, released."""

import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.checks import save_check
from scanfleet.db.schema import ledger
from scanfleet.db.tables import CheckRow, Refusal, ScorerRow
from scanfleet.db.training import champions as store
from scanfleet.db.training import refusals
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.errors import DeviceUnavailable
from scanfleet.models.adapters.card import read_card
from scanfleet.models.errors import ModelUnavailable
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.types import Question, Scorer
from scanfleet.retry import backoff_seconds
from scanfleet.worker.scoring import champions
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import FakeModel, LoadedModel, Model
from tests.rigs.second_adapter import info_of, out_of_tune, second_adapter, sing_again


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def second(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> AdapterInfo:
    return info_of(second_adapter(base, tmp_path_factory.mktemp("adapters") / "second"))


class Held(LoadedModel):
    """Loads of one adapter wait for `go_on`, or fail."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        self.held = ""  # digest
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.fault: Exception | None = None

    def scorer(self, question: Question, adapter: Path | None) -> Scorer:
        if adapter is not None and read_card(adapter).weights_sha256 == self.held:
            self.reached.set()
            if self.fault is not None:
                raise self.fault
            assert self.go_on.wait(60)
        return super().scorer(question, adapter)


class Place:
    """A database with the shipped adapters in use, and workers on one base model."""

    def __init__(self, engine: sa.Engine, folder: Path, base: BaseModel) -> None:
        self.engine = engine
        self.settings = load_settings(data_dir=folder)
        self.base = base
        self.model = Held(base)
        register_shipped(engine, self.model.identity)
        self.overlay, self.baggage = self.check("overlay"), self.check("baggage")

    def check(self, name: str) -> int:
        with transaction(self.engine) as connection:
            return save_check(connection, load_check(name))

    def worker(self, name: str = "w", model: Model | None = None) -> ScorerCache:
        return ScorerCache(self.engine, model or self.model, self.settings, worker=name)

    def promote(self, adapter: AdapterInfo) -> int:
        with transaction(self.engine) as connection:
            adapter_id = register_adapter(connection, adapter)
            store.promote(connection, adapter_id, kind="forced", why="test")
        return adapter_id

    def roll_back(self, check: str = "overlay", base_model: str = "pocket") -> None:
        with transaction(self.engine) as connection:
            store.roll_back(connection, check, base_model, why="test", who=None)

    def adapter_of(self, resolved: Resolved) -> int | None:
        with reading(self.engine) as connection:
            return connection.execute(
                sa.select(ScorerRow.adapter_id).where(ScorerRow.id == resolved.scorer_id)
            ).scalar_one()

    def shipped(self, check: str = "overlay") -> int:
        with reading(self.engine) as connection:
            return min(adapter or 0 for (name, _), adapter in store.in_use(connection).items() if name == check)

    def refusals(self) -> list[tuple[int, str]]:
        with reading(self.engine) as connection:
            return [(found.adapter_id, found.worker) for found in refusals.open_refusals(connection)]

    def n_refusal_rows(self) -> int:
        with reading(self.engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(Refusal)).scalar_one()


@pytest.fixture
def place(tmp_path: Path, base: BaseModel) -> Iterator[Place]:
    with ledger(load_settings(data_dir=tmp_path / "ledger")) as engine:
        yield Place(engine, tmp_path / "ledger", base)
    for digest in list(base.loaded):
        base.release(digest)


def copy_of(
    adapter: AdapterInfo, into: Path, base: BaseModel, *, strength: float = 1.2, tune: bool = True
) -> AdapterInfo:
    """One more adapter. With tune=False its canary fails, so it is refused."""
    folder = second_adapter(base, into, strength=strength)
    return replace(
        adapter, uri=str(folder if tune else out_of_tune(folder)), weights_sha256=read_card(folder).weights_sha256
    )


def test_batches_go_on_until_the_new_champion_is_ready_and_the_next_one_takes_it_at_once(
    place: Place, second: AdapterInfo
) -> None:
    worker = place.worker()
    first = worker.resolve(place.overlay)
    worker.check()
    place.model.held = second.weights_sha256
    new = place.promote(second)
    watch = threading.Thread(target=worker.check)
    watch.start()
    assert place.model.reached.wait(60)  # `check` is loading it
    assert worker.resolve(place.overlay) is first
    place.model.go_on.set()
    watch.join(60)
    start = time.perf_counter()
    resolved = worker.resolve(place.overlay)
    assert time.perf_counter() - start < 1.0
    assert place.adapter_of(resolved) == new
    assert worker.resolve(place.overlay) is resolved


def test_another_check_of_the_same_worker_notices_nothing(place: Place, second: AdapterInfo) -> None:
    worker = place.worker()
    worker.resolve(place.overlay)
    other = worker.resolve(place.baggage)
    worker.check()
    place.model.held = second.weights_sha256
    place.promote(second)
    watch = threading.Thread(target=worker.check)
    watch.start()
    assert place.model.reached.wait(60)
    start = time.perf_counter()
    assert worker.resolve(place.baggage) is other
    assert place.adapter_of(worker.resolve(place.check("flowers"))) is None  # a check that it never served before
    assert time.perf_counter() - start < 5.0
    place.model.go_on.set()
    watch.join(60)
    worker.resolve(place.overlay)
    worker.check()
    assert worker.resolve(place.baggage) is other


def test_the_database_is_asked_only_when_something_may_have_changed(place: Place, second: AdapterInfo) -> None:
    asked: list[str] = []
    sa.event.listen(place.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    worker = place.worker()
    worker.resolve(place.overlay)
    worker.check(newest=1)
    asked.clear()
    worker.check(newest=1)
    assert asked == []
    place.promote(second)
    asked.clear()
    worker.check(newest=2)
    assert asked


def test_a_check_that_a_restored_database_has_lost_is_not_asked_about_again(place: Place) -> None:
    worker = place.worker()
    for check_id in (place.overlay, place.baggage):
        worker.resolve(check_id)
    place.roll_back("overlay")
    with transaction(place.engine) as connection:
        connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(sa.delete(ScorerRow).where(ScorerRow.check_id == place.overlay))
        connection.execute(sa.delete(CheckRow).where(CheckRow.id == place.overlay))
    worker.check()
    assert set(worker._serving) == {place.baggage}
    worker.check()


def test_a_worker_whose_timer_never_ran_takes_the_new_champion_itself(place: Place, second: AdapterInfo) -> None:
    shipped, worker = place.shipped(), place.worker()
    with capture_logs() as logs:
        for _ in range(2):
            assert place.adapter_of(worker.resolve(place.overlay)) == shipped
        new = place.promote(second)
        for _ in range(2):
            assert place.adapter_of(worker.resolve(place.overlay)) == new
    assert [entry["adapter"] for entry in logs if entry["event"] == "champion_in_use"] == [shipped, new]


@pytest.mark.parametrize("name", ["PATIENCE_SECONDS", "UNWATCHED_SECONDS"])
def test_a_batch_that_waited_long_enough_or_has_no_watch_takes_the_new_champion_itself(
    place: Place, second: AdapterInfo, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    worker = place.worker()
    worker.resolve(place.overlay)
    worker.check()
    new = place.promote(second)
    monkeypatch.setattr(champions, name, 0.0)
    assert place.adapter_of(worker.resolve(place.overlay)) == new


def test_a_refused_champion_leaves_the_old_one_in_use_until_it_is_mended(
    place: Place, second: AdapterInfo, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = place.worker()
    first = worker.resolve(place.overlay)
    worker.check()
    bad = copy_of(second, tmp_path / "bad", base, tune=False)
    new = place.promote(bad)
    worker.check()
    place.model.held = bad.weights_sha256
    assert worker.resolve(place.overlay) is first
    assert not place.model.reached.is_set()  # it is not tried again for each batch
    place.model.held = ""
    (failure,) = worker._failures.values()
    assert (
        champions.REFUSED_AGAIN_SECONDS / 2 < failure.not_before - time.monotonic() <= champions.REFUSED_AGAIN_SECONDS
    )
    assert place.refusals() == [(new, "w")]
    monkeypatch.setattr(champions, "REFUSED_AGAIN_SECONDS", 0.0)
    for _ in range(3):
        worker.check()
    assert (worker.resolve(place.overlay), place.n_refusal_rows()) == (first, 1)
    sing_again(base, Path(bad.uri))
    worker._failures.clear()  # as after its minute
    worker.check()
    assert place.adapter_of(worker.resolve(place.overlay)) == new


def test_a_refusal_is_taken_back_by_the_worker_that_uses_the_adapter_after_all(
    place: Place, second: AdapterInfo, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champions, "REFUSED_AGAIN_SECONDS", 0.0)
    bad = copy_of(second, tmp_path / "bad", base, tune=False)
    new = place.promote(bad)
    one, two = place.worker("one"), place.worker("two")
    for worker in (one, two):
        worker.resolve(place.overlay)
    assert place.refusals() == [(new, "one"), (new, "two")]
    sing_again(base, Path(bad.uri))
    one.check()
    assert place.adapter_of(one.resolve(place.overlay)) == new
    assert place.refusals() == [(new, "two")]


def test_a_refusal_without_a_watch_keeps_the_old_champion_too(
    place: Place, second: AdapterInfo, base: BaseModel, tmp_path: Path
) -> None:
    worker = place.worker()
    first = worker.resolve(place.overlay)
    place.promote(second)  # which it never loads: it keeps its adapter, and falls back to no predecessor
    place.promote(copy_of(second, tmp_path / "bad", base, tune=False))
    assert worker.resolve(place.overlay) is first
    assert worker.resolve(place.overlay) is first


@pytest.mark.slow
def test_a_fresh_worker_goes_back_to_the_newest_predecessor_that_passes(
    place: Place, second: AdapterInfo, base: BaseModel, tmp_path: Path
) -> None:
    shipped = place.shipped()
    good = place.promote(copy_of(second, tmp_path / "good", base))
    place.promote(copy_of(second, tmp_path / "bad", base, strength=1.3, tune=False))
    place.promote(copy_of(second, tmp_path / "worse", base, strength=1.4, tune=False))
    worker = place.worker()
    assert place.adapter_of(worker.resolve(place.overlay)) == good
    assert len(place.refusals()) == 2
    out_of_tune(tmp_path / "good")
    assert place.adapter_of(worker.resolve(place.overlay)) == good  # which keeps its adapter
    assert place.adapter_of(place.worker("other").resolve(place.overlay)) == shipped


def test_the_base_alone_answers_in_the_place_of_a_refused_champion_only_if_it_did_before(
    place: Place, second: AdapterInfo, base: BaseModel, tmp_path: Path
) -> None:
    bad = copy_of(second, tmp_path / "bad", base, tune=False)
    with transaction(place.engine) as connection:  # there was never a champion
        for table in ("promotions", "champions"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    place.promote(bad)
    with pytest.raises(DeviceUnavailable, match="canary's margins moved"):
        place.worker().resolve(place.overlay)
    with transaction(place.engine) as connection:
        for table in ("promotions", "champions"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    assert place.adapter_of(place.worker().resolve(place.overlay)) is None  # now it was
    place.promote(bad)
    assert place.adapter_of(place.worker().resolve(place.overlay)) is None


def test_a_rollback_to_the_base_alone_is_served_and_not_undone_by_a_start(place: Place) -> None:
    with transaction(place.engine) as connection:
        store._point(connection, "overlay", "pocket", None, kind="rollback", why="test", who=None)
    worker = place.worker()
    assert place.adapter_of(worker.resolve(place.overlay)) is None
    register_shipped(place.engine, place.model.identity)
    assert place.adapter_of(place.worker().resolve(place.overlay)) is None


def test_a_rollback_reaches_a_running_worker_as_a_promotion_does(place: Place, second: AdapterInfo) -> None:
    shipped = place.shipped()
    worker = place.worker()
    old = worker.resolve(place.overlay)
    place.promote(second)
    worker.check()
    worker.resolve(place.overlay)
    place.roll_back()
    worker.check()
    restored = worker.resolve(place.overlay)
    assert (place.adapter_of(restored), restored.scorer_id) == (shipped, old.scorer_id)


def test_a_pointer_that_moves_back_in_time_changes_nothing(place: Place, second: AdapterInfo, base: BaseModel) -> None:
    worker = place.worker()
    first = worker.resolve(place.overlay)
    worker.check()
    place.promote(second)
    worker.check()  # ready, and never taken
    assert second.weights_sha256 in base.loaded
    place.roll_back()
    assert worker.resolve(place.overlay) is first
    gc.collect()
    worker.check()
    assert second.weights_sha256 not in base.loaded


def test_a_transient_error_is_no_refusal_and_is_tried_again(place: Place, second: AdapterInfo) -> None:
    worker = place.worker()
    first = worker.resolve(place.overlay)
    worker.check()
    place.model.held, place.model.fault = second.weights_sha256, ModelUnavailable("no room on the device")
    new = place.promote(second)
    worker.check()
    assert worker.resolve(place.overlay) is first
    assert place.n_refusal_rows() == 0
    place.model.held = ""
    worker.check()  # during its pause
    assert worker.resolve(place.overlay) is first
    place.model.held = second.weights_sha256
    for attempts in (2, 3, 4):
        ((key, failure),) = worker._failures.items()
        worker._failures[key] = replace(failure, not_before=0.0)  # as after its pause
        began = time.monotonic()
        worker.check()
        failure, ended = worker._failures[key], time.monotonic()
        assert (failure.attempts, failure.refused) == (attempts, False)
        assert began < failure.not_before <= ended + backoff_seconds(attempts)
    place.model.held = ""
    worker._failures.clear()
    worker.check()
    assert place.adapter_of(worker.resolve(place.overlay)) == new


def test_an_adapter_is_released_when_no_check_and_no_batch_uses_it(
    place: Place, second: AdapterInfo, base: BaseModel
) -> None:
    worker = place.worker()
    held = [worker.resolve(place.overlay)]  # as a batch does
    digest = str(held[0].scorer.identity.adapter_sha256)
    place.promote(second)
    worker.check()
    worker.resolve(place.overlay)
    worker.check()
    assert digest in base.loaded
    image = held[0].scorer.prepare(_picture())
    before = held[0].scorer.score([image])[0].margin
    held.clear()
    gc.collect()
    worker.check()
    assert set(base.loaded) == {second.weights_sha256}
    place.roll_back()
    worker.check()
    reloaded = worker.resolve(place.overlay).scorer
    assert reloaded.score([reloaded.prepare(_picture())])[0].margin == pytest.approx(before, abs=1e-4)


def test_a_model_without_adapters_refuses_a_champion_and_goes_on_as_before(place: Place, second: AdapterInfo) -> None:
    fake = place.worker("f", FakeModel())
    assert place.adapter_of(fake.resolve(place.overlay)) is None
    new = place.promote(replace(second, base_model="fake"))
    fake.check()
    assert place.adapter_of(fake.resolve(place.overlay)) is None
    assert place.refusals() == [(new, "f")]
    assert place.adapter_of(place.worker("g", FakeModel()).resolve(place.overlay)) is None


def test_what_nobody_knows_how_to_use_is_named(place: Place) -> None:
    gone = AdapterInfo(
        check_name="overlay",
        check_hash="h",
        base_model="fake",
        base_revision="1",
        uri="/nowhere",
        weights_sha256="f" * 64,
    )
    place.promote(gone)
    with pytest.raises(DeviceUnavailable, match=r"check overlay: /nowhere/adapter\.json is missing"):
        place.worker("f", FakeModel()).resolve(place.overlay)


def _picture() -> object:
    from PIL import Image

    return Image.effect_mandelbrot((128, 128), (-2.0, -1.5, 1.0, 1.5), 30).convert("RGB")
