"""The crop pass in a worker, on SQLite, with the fake model: its cost, and the guarantees that hold after any error."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop import CropSettings
from scanfleet.checks.crop_result import CropResult
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.db.tables import Batch, Image, Verdict
from scanfleet.errors import DeviceUnavailable, StoreUnavailable
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.fake import FakeCropReader, FakeScorer
from scanfleet.models.types import CropReader, Pointed, Prepared, Question, Reading, Scorer
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.errors import OutOfDeviceMemory
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import FakeModel
from tests.rigs.worker_rig import Rig, png, rig

N = 12


def crop_check(**settings: Any) -> Check:
    held = {"when": "always", "max_extra": 100.0} | settings
    return load_check("overlay").model_copy(update={"crop": CropSettings.model_validate(held)})


def contents(n: int = N, folder: str = "a") -> dict[str, bytes]:
    return {f"mem://{folder}/{seed}.png": png(seed, width=84, height=84) for seed in range(n)}


class Hooked(FakeModel):
    """The fake, with hooks in the steps of the crop pass, and with maps that point nowhere or cost tokens."""

    def __init__(self, *, diffuse: float = 0.0, cost: int = 0) -> None:
        super().__init__()
        self.diffuse, self.cost = diffuse, cost
        self.pointing: Callable[[Sequence[Any]], None] = lambda _: None
        self.reading: Callable[[Sequence[Any]], None] = lambda _: None
        self.rows: set[bytes] = set()  # digests of rows of crops
        self.n_pointed = 0
        self.n_read = 0

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        model = self

        class Watched(FakeScorer):
            def score(self, prepared: Sequence[Any]) -> list[Reading]:
                crops = [row for row in prepared if row.digest in model.rows]
                model.n_read += len(crops)
                if crops:
                    model.reading(crops)
                return super().score(prepared)

        return cast("Scorer", Watched(question=question))

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> CropReader:
        model = self

        class Pointing(FakeCropReader):
            def point(self, views: Sequence[Any]) -> list[Pointed]:
                model.n_pointed += len(views)
                model.pointing(views)
                return super().point(views)

            def rows(self, image: PillowImage.Image, pointed: Pointed | None) -> list[Any]:
                made = super().rows(image, pointed)
                model.rows.update(row.digest for row in made)
                return made

        scorer = FakeScorer(question=question)
        made = Pointing(scorer=scorer, pointed=policy.pointed, fuse=policy.fuse, diffuse=self.diffuse, cost=self.cost)
        return cast("CropReader", made)

    def forget_trial(self) -> None:
        self.n_pointed = self.n_read = 0


class FailingStore:
    """A memory store that fails on demand, and records the fetches."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.list, self.confirm_missing = self.inner.list, self.inner.confirm_missing
        self.fetched: list[str] = []
        self.fails: Callable[[int], bool] = lambda _: False  # by the number of earlier fetches of the uri

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        n_before = self.fetched.count(uri)
        self.fetched.append(uri)
        if self.fails(n_before):
            raise StoreUnavailable("the bucket is unavailable")
        return self.inner.fetch(uri, etag=etag, max_bytes=max_bytes)


def scan(worker: Rig, check: Check, images: dict[str, bytes], store: FailingStore | None = None, **how: Any) -> str:
    if store is None:
        return worker.scan(images, check=check, **how)
    store.inner.objects.update(images)
    worker.store = store.inner
    return worker.scan(images, check=check, **how)


def verdicts_of(worker: Rig, scan_id: str) -> dict[str, tuple[sa.Row[Any], CropResult | None]]:
    """Verdict and crop result by uri."""
    uris = {row.id: row.uri for row in worker.rows(Image, Image.scan_id == scan_id)}
    rows = worker.rows(Verdict, Verdict.scan_id == scan_id)
    return {uris[row.image_id]: (row, CropResult.read(row.crop)) for row in rows}


def by_hand(check: Check, data: bytes) -> tuple[Reading, Reading, Reading]:
    """The readings of the first pass, of the crop, and of both together."""
    scorer = FakeScorer(question=question_of(check))
    crop_reader = FakeCropReader(scorer=scorer)
    image = PillowImage.open(io.BytesIO(data)).convert("RGB")
    (first,) = scorer.score([scorer.prepare(image)])
    (pointed,) = crop_reader.point([crop_reader.views(image, first)])
    (second,) = scorer.score(crop_reader.rows(image, pointed))
    return first, second, crop_reader.fuse(first, [second])


@pytest.mark.parametrize("batch_images", [1, N])
def test_every_reading_and_both_together_are_the_same_alone_and_in_company(tmp_path: Path, batch_images: int) -> None:
    check, images = crop_check(), contents()
    with rig(tmp_path) as worker:
        scan_id = scan(worker, check, images, batch_images=batch_images)
        worker.drain()
        found = verdicts_of(worker, scan_id)
        assert worker.pipeline._context.files.nothing
    assert set(found) == set(images)
    for uri, (row, crop) in found.items():
        first, second, both = by_hand(check, images[uri])
        assert crop is not None
        assert (crop.why, crop.skipped, crop.look, crop.method) == ("always", None, "pair", "rel-att")
        assert (crop.first, crop.second, row.margin) == pytest.approx((first.margin, second.margin, both.margin))
        assert row.logits == pytest.approx(list(both.logits))
        assert crop.tokens == second.visual_tokens
        assert crop.box is not None
        assert crop.box[2] - crop.box[0] == 42


def test_only_images_that_the_gate_chooses_get_the_crop_pass(tmp_path: Path) -> None:
    check, images, model = crop_check(when="uncertain", band=1.0), contents(), Hooked()
    with rig(tmp_path, model=model) as worker:
        scan_id = scan(worker, check, images, batch_images=N)
        worker.drain()
        found = verdicts_of(worker, scan_id)
        (batch,) = worker.rows(Batch)
    chosen = {uri for uri, data in images.items() if abs(by_hand(check, data)[0].margin) <= 1.0}
    assert 0 < len(chosen) < N
    assert {uri for uri, (_, crop) in found.items() if crop is not None} == chosen
    for uri in set(images) - chosen:
        assert found[uri][0].margin == pytest.approx(by_hand(check, images[uri])[0].margin)
    spent = sum(crop.tokens for _, crop in found.values() if crop is not None)
    assert batch.seconds["again"] == batch.seconds["again_rows"] == len(chosen)
    assert batch.seconds["again_tokens"] == spent
    assert (batch.seconds["scored"], batch.seconds["first_tokens"]) == (N, N * 9)


@pytest.mark.parametrize(("cost", "share"), [(0, 0.62), (3, 0.6)])  # 0.62 of 108 tokens is just enough for six of 11
def test_the_cap_holds_and_the_least_certain_come_first(tmp_path: Path, cost: int, share: float) -> None:
    check, images, model = crop_check(max_extra=share), contents(), Hooked(cost=cost)
    with rig(tmp_path, model=model) as worker:
        scan_id = scan(worker, check, images, batch_images=N)
        worker.drain()
        found = verdicts_of(worker, scan_id)
        (batch,) = worker.rows(Batch)
        second = scan(worker, check, contents(folder="b"), batch_images=N)
        model.forget_trial()
        worker.drain()
        later = verdicts_of(worker, second)
    spent = sum(crop.tokens for _, crop in found.values() if crop is not None)
    assert 0 < spent <= share * N * 9
    seen = {uri for uri, (_, crop) in found.items() if crop is not None and crop.skipped is None}
    nearest = sorted(images, key=lambda uri: abs(by_hand(check, images[uri])[0].margin))
    assert seen == set(nearest[: len(seen)])
    assert (batch.seconds["again"], batch.seconds["capped"]) == (len(seen), N - len(seen))
    assert batch.seconds["again_tokens"] == spent
    assert spent + (9 + 2 + cost) > share * N * 9  # one more would exceed the cap
    for uri in set(images) - seen:
        row, crop = found[uri]
        assert crop is not None
        assert (crop.skipped, crop.second, row.decision, row.score) == ("cap", None, "review", None)
        assert row.margin == pytest.approx(by_hand(check, images[uri])[0].margin)
    # An answer that lacks its crop pass is not reused: the next scan has tokens of its own.
    reused = {Path(uri).name for uri, (row, _) in later.items() if row.reused_from is not None}
    assert reused == {Path(uri).name for uri in seen}
    assert model.n_read > 0


def test_the_same_images_get_it_every_time(tmp_path: Path) -> None:
    check, runs = crop_check(max_extra=0.8), []
    for name in ("one", "two"):
        with rig(tmp_path / name, fetch_threads=2 if name == "one" else 8) as worker:
            scan_id = scan(worker, check, contents(24), batch_images=24)
            worker.drain()
            runs.append({uri: (row.margin, row.crop) for uri, (row, _) in verdicts_of(worker, scan_id).items()})
    assert runs[0] == runs[1]


def test_equal_bytes_get_one_crop_pass(tmp_path: Path) -> None:
    images = {f"mem://a/{n}.png": png(7, width=84, height=84) for n in range(5)}
    model = Hooked()
    with rig(tmp_path, model=model) as worker:
        scan_id = scan(worker, crop_check(), images, batch_images=5)
        worker.drain()
        found = verdicts_of(worker, scan_id)
    assert model.n_read == 1 + 1  # the trial when the scorer was made
    assert len({(row.margin, str(row.crop)) for row, _ in found.values()}) == 1
    assert len(found) == 5


def test_a_map_that_points_nowhere_leaves_the_first_reading(tmp_path: Path) -> None:
    check, images = crop_check(), contents()
    with rig(tmp_path, model=Hooked(diffuse=1.0, cost=4)) as worker:
        scan_id = scan(worker, check, images, batch_images=N)
        worker.drain()
        found = verdicts_of(worker, scan_id)
        (batch,) = worker.rows(Batch)
    assert (batch.seconds["again_diffuse"], batch.seconds["again"], batch.seconds["again_rows"]) == (N, 0, 0)
    for uri, (row, crop) in found.items():
        first = by_hand(check, images[uri])[0]
        assert crop is not None
        assert (crop.skipped, crop.second, crop.box, crop.tokens) == ("diffuse", None, None, 4)
        assert row.margin == pytest.approx(first.margin)
        assert row.decision == ("flag" if first.margin >= 0 else "clear")  # the crop pass is complete


def test_a_crop_that_is_not_pointed_is_read_at_once(tmp_path: Path) -> None:
    model = Hooked()
    with rig(tmp_path, model=model) as worker:
        scan_id = scan(worker, crop_check(look="larger", crop_pixels=100_000), contents(), batch_images=N)
        worker.drain()
        found = verdicts_of(worker, scan_id)
    assert (model.n_pointed, len(found)) == (0, N)
    for _, crop in found.values():
        assert crop is not None
        assert (crop.skipped, crop.method, crop.box, crop.second) == (None, None, None, crop.first)


# Failures


def forget_files(worker: Rig) -> None:
    """Keep no file after the first pass."""
    worker.pipeline._context.files._most_kept = 0


def test_kept_files_spare_a_second_fetch_and_others_are_fetched_again(tmp_path: Path) -> None:
    for name, kept in (("kept", True), ("not", False)):
        store = FailingStore()
        with rig(tmp_path / name, store=store) as worker:
            if not kept:
                forget_files(worker)
            scan_id = scan(worker, crop_check(look="larger", crop_pixels=100_000), contents(), store, batch_images=N)
            worker.drain()
            assert len(verdicts_of(worker, scan_id)) == N
        assert len(store.fetched) == (N if kept else 2 * N)


def test_a_store_that_is_unavailable_at_the_second_fetch_makes_the_image_wait(tmp_path: Path) -> None:
    store = FailingStore()
    store.fails = lambda n_before: n_before == 1
    with rig(tmp_path, store=store) as worker:
        forget_files(worker)
        scan_id = scan(worker, crop_check(look="larger", crop_pixels=100_000), contents(), store, batch_images=N)
        worker.pipeline.run(None)
        assert worker.progress(scan_id).n_verdicts == worker.progress(scan_id).n_failures == 0
        worker.forget_backoff()
        worker.drain()
        assert all(crop is not None and crop.skipped is None for _, crop in verdicts_of(worker, scan_id).values())
        assert worker.progress(scan_id).n_verdicts == N


@pytest.mark.parametrize("has_duplicate", [False, True])
def test_a_file_that_changed_meanwhile_fails_unless_its_bytes_lie_elsewhere(
    tmp_path: Path, has_duplicate: bool
) -> None:
    class Changing(FailingStore):
        def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
            changed = uri.endswith("/0.png") and uri in self.fetched
            super().fetch(uri, etag=etag, max_bytes=max_bytes)
            return FetchedObject(png(99) if changed else self.inner.objects[uri], etag)

    store = Changing()
    images = contents(3) | ({"mem://a/copy.png": contents(1)["mem://a/0.png"]} if has_duplicate else {})
    with rig(tmp_path, store=store) as worker:
        forget_files(worker)
        scan_id = scan(worker, crop_check(look="larger", crop_pixels=100_000), images, store, batch_images=8)
        worker.drain()
        failures, done = worker.failures(), verdicts_of(worker, scan_id)
    assert failures == ({} if has_duplicate else {"mem://a/0.png": ("fetch", "changed")})
    assert len(done) == len(images) - len(failures)


def fail_with(error: Exception) -> Callable[[Sequence[Prepared]], None]:
    def fail(_: Sequence[Prepared]) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("pointing", DeviceUnavailable("the device is unavailable")),
        ("reading", DeviceUnavailable("the device is unavailable")),
        ("reading", KeyError("a bug")),
    ],
)
def test_a_device_that_fails_makes_the_images_wait_that_were_due_for_the_crop_pass(
    tmp_path: Path, where: str, error: Exception
) -> None:
    check, images, model = crop_check(when="uncertain", band=0.5), contents(), Hooked()
    uncertain = {uri for uri, data in images.items() if abs(by_hand(check, data)[0].margin) <= 0.5}
    assert 0 < len(uncertain) < 5

    with rig(tmp_path, model=model) as worker:
        scan_id = scan(worker, check, images, batch_images=N)
        worker.scoring.scorers.resolve(1)  # its trial does not fail
        setattr(model, where, fail_with(error))
        worker.pipeline.run(None)
        assert set(verdicts_of(worker, scan_id)) == set(images) - uncertain
        assert worker.progress(scan_id).n_failures == 0
        setattr(model, where, lambda _: None)
        worker.forget_backoff()
        worker.drain()
        found = verdicts_of(worker, scan_id)
        assert worker.pipeline._context.files.nothing
    assert {uri for uri, (_, crop) in found.items() if crop is not None} == uncertain
    assert len(found) == N


@pytest.mark.parametrize("where", ["pointing", "reading"])
def test_tokens_left_over_by_a_failed_attempt_pay_for_the_next_one(tmp_path: Path, where: str) -> None:
    check, images = crop_check(max_extra=0.6), contents()
    runs = []
    for name in ("well", "failing"):
        model = Hooked(cost=1)
        with rig(tmp_path / name, model=model) as worker:
            scan_id = scan(worker, check, images, batch_images=N)
            worker.scoring.scorers.resolve(1)
            if name == "failing":
                setattr(model, where, fail_with(DeviceUnavailable("the device is unavailable")))
                worker.pipeline.run(None)
                # Images without tokens are answered when the rows are made; before that, every image has tokens.
                assert (0 < worker.progress(scan_id).n_verdicts < N) == (where == "reading")
                setattr(model, where, lambda _: None)
                worker.forget_backoff()
            worker.drain()
            runs.append({uri: (row.margin, row.crop) for uri, (row, _) in verdicts_of(worker, scan_id).items()})
    assert runs[0] == runs[1]


def test_out_of_memory_in_pointing_halves_its_forwards_alone(tmp_path: Path) -> None:
    model = Hooked(cost=20)
    sizes: list[int] = []

    def crowded(views: Sequence[Prepared]) -> None:
        sizes.append(len(views))
        if len(views) > 2:
            raise OutOfDeviceMemory("out of memory")

    model.pointing = crowded
    with rig(tmp_path, model=model, token_budget=1000) as worker:
        scan_id = scan(worker, crop_check(), contents(), batch_images=N)
        worker.drain()
        assert worker.scoring.device.token_budget == 1000
        found = verdicts_of(worker, scan_id)
    assert len(found) == N
    assert all(crop is not None and crop.skipped is None for _, crop in found.values())


def test_a_row_that_is_larger_than_the_budget_goes_alone(tmp_path: Path) -> None:
    images = {f"mem://a/{seed}.png": png(seed, width=112, height=112) for seed in range(3)}  # 16 tokens, and 4 more
    with rig(tmp_path, token_budget=16) as worker:
        scan_id = scan(worker, crop_check(), images, batch_images=3)
        worker.drain()
        assert all(crop is not None and crop.skipped is None for _, crop in verdicts_of(worker, scan_id).values())


def test_images_that_are_run_one_by_one_share_the_cap_of_their_batch(tmp_path: Path) -> None:
    check = crop_check(max_extra=0.6)
    with rig(tmp_path) as worker:
        scan_id = scan(worker, check, contents(), batch_images=N)
        with worker.engine.begin() as connection:
            connection.execute(sa.update(Batch).values(suspect=True))
        worker.drain()
        found = verdicts_of(worker, scan_id)
    spent = sum(crop.tokens for _, crop in found.values() if crop is not None)
    assert len(found) == N
    assert 0 < spent <= 0.6 * N * 9  # alone, none of them could have had a crop


def test_a_worker_that_stops_in_between_writes_no_verdict(tmp_path: Path) -> None:
    model, ended = Hooked(), threading.Event()

    def stop(_: Sequence[Prepared]) -> None:
        worker.stop.request("a test")
        ended.wait(30)

    with rig(tmp_path, model=model, drain_seconds=0.0) as worker:
        scan_id = scan(worker, crop_check(), contents(), batch_images=N)
        worker.scoring.scorers.resolve(1)
        model.pointing = stop
        worker.pipeline.run(None)
        ended.set()
        assert worker.progress(scan_id).n_verdicts == 0
        assert worker.pipeline._context.files.nothing


def test_boxes_are_found_in_flagged_images_after_the_crop_pass(tmp_path: Path) -> None:
    check = crop_check().model_copy(update={"boxes": True})
    with rig(tmp_path) as worker:
        scan_id = scan(worker, check, contents(), batch_images=N)
        worker.drain()
        found = verdicts_of(worker, scan_id)
    assert {row.decision for row, _ in found.values()} == {"flag", "clear"}
    for row, crop in found.values():
        assert crop is not None
        assert (row.boxes is not None) == (row.decision == "flag") == (row.margin >= 0)


def test_an_answer_with_a_crop_is_reused_with_both_readings(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        first = scan(worker, crop_check(), contents(3))
        worker.drain()
        second = scan(worker, crop_check(), contents(3, folder="b"))
        worker.drain()
        before, after = verdicts_of(worker, first), verdicts_of(worker, second)
    assert all(row.reused_from is not None for row, _ in after.values())
    assert sorted(str(crop) for _, crop in before.values()) == sorted(str(crop) for _, crop in after.values())


def test_alone_there_is_no_cap(tmp_path: Path) -> None:
    from scanfleet.worker.commands.standalone import resolve_alone
    from scanfleet.worker.commands.stream import score_stream, stages

    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1, width=84, height=84))
    images = iter([ClaimedImage(id=1, uri=str(folder / "1.png"), root=str(folder), etag=None, identity="")])
    from scanfleet.config.settings import load_settings

    model, settings = FakeModel(), load_settings(data_dir=tmp_path, model="fake")
    with stages(settings, model, token_budget=100) as context:
        ((_, outcome),) = score_stream(images, resolve_alone(model, crop_check(max_extra=0.1), None), context)
    (verdict,) = outcome.verdicts
    assert verdict.crop is not None
    assert verdict.crop.skipped is None
