"""A pass in a worker: what is shared, and what one scan's trouble does not do to the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scanfleet.checks.check import Check
from scanfleet.db.engine import transaction
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.batch.leases import Lease
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory
from tests.helpers.animations import animated, frames
from tests.rigs.many_questions import ManyModel, question_named
from tests.rigs.worker_rig import Rig, add_scan, png, rig

LOGO, KNIFE, TEXT = (question_named(name) for name in ("logo", "knife", "text"))
PICTURES = {f"mem://a/{number:02}.png": png(number) for number in range(16)}


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        self.fetched.append(uri)
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Rig, ManyModel, CountingStore]]:
    model, store = ManyModel(), CountingStore()
    with rig(folder, model=model, store=store) as worker:
        worker.store = store
        yield worker, model, store


def scan_all(
    worker: Rig, checks: Sequence[Check] = (LOGO, KNIFE, TEXT), contents: dict[str, bytes] = PICTURES
) -> list[str]:
    images = worker.put(contents)
    return [add_scan(worker.engine, images, check=check, pass_id="p") for check in checks]


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, dict[str, float]]:
    """Margins by check and uri, of scans that are in no pass."""
    with rig(tmp_path / "alone", model=ManyModel()) as worker:
        found = {check.name: worker.scan(PICTURES, check=check) for check in (LOGO, KNIFE, TEXT)}
        worker.drain()
        return {name: worker.margins(scan) for name, scan in found.items()}


def before_followers(worker: Rig, monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> None:
    """Have `call` called once, between the first batch of a pass and the next one."""
    claim, calls = worker.pipeline.leases.claim, [call]

    def hooked(*, only: bool = False, **how: Any) -> Lease | None:
        if only and calls:
            calls.pop()()
        return claim(only=only, **how)

    monkeypatch.setattr(worker.pipeline.leases, "claim", hooked)


def test_a_sibling_whose_scorer_cannot_be_made_holds_up_nobody(
    tmp_path: Path, alone: dict[str, dict[str, float]]
) -> None:
    with fleet(tmp_path / "p") as (worker, model, store):
        model.broken.add("knife")
        logo, knife, text = scan_all(worker)
        worker.drain()
        assert (worker.margins(logo), worker.margins(text)) == (alone["logo"], alone["text"])
        assert {asked for asked, _ in model.forwards} == {("logo", "text")}
        assert len(store.fetched) == 16
        waiting = worker.progress(knife)
        assert (waiting.n_verdicts, waiting.n_failures) == (0, 0)
        assert "damaged" in (waiting.waiting_for or "")
        model.broken.clear()
        worker.forget_backoff()
        worker.drain()
        assert worker.margins(knife) == alone["knife"]


@pytest.mark.parametrize("error", [RuntimeError, OutOfDeviceMemory])
def test_questions_that_fail_together_are_asked_alone(
    tmp_path: Path, alone: dict[str, dict[str, float]], error: type[Exception]
) -> None:
    with fleet(tmp_path / "p") as (worker, model, _):
        model.together_fails = error
        found = scan_all(worker)
        worker.drain()
        worker.drain()
        assert {
            check.name: worker.margins(scan) for check, scan in zip((LOGO, KNIFE, TEXT), found, strict=True)
        } == alone


def test_a_broken_device_stops_the_worker_and_is_nobody_s_answer(tmp_path: Path) -> None:
    with fleet(tmp_path / "p") as (worker, model, _):
        model.together_fails = DeviceBroken
        found = scan_all(worker)
        worker.pipeline.run(None)
        assert all(worker.progress(scan).n_verdicts == 0 for scan in found)
        assert {len(asked) for asked, _ in model.forwards} == {3}


def test_a_worker_that_dies_in_between_costs_the_siblings_nothing_but_time(
    tmp_path: Path, alone: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with fleet(tmp_path / "p") as (worker, _, store):
        found = scan_all(worker)
        objects = store.objects
        before_followers(worker, monkeypatch, die)
        with pytest.raises(KeyboardInterrupt):
            worker.pipeline.run(None)
        assert [worker.progress(scan).n_verdicts for scan in found] == [8, 0, 0]
    with fleet(tmp_path / "p") as (worker, model, store):
        store.objects = objects
        worker.drain()
        assert [worker.margins(scan) for scan in found] == list(alone.values())
        assert {asked for asked, _ in model.forwards} == {("logo", "knife", "text"), ("knife", "text")}
        assert len(store.fetched) == 16


def test_a_worker_that_is_stopping_takes_no_further_batch(tmp_path: Path) -> None:
    with fleet(tmp_path / "p") as (worker, model, _):
        found = scan_all(worker)
        score = model.together

        def stopping(scorers: Any) -> Any:
            worker.stop.request("test")
            return score(scorers)

        model.together = stopping  # type: ignore[method-assign]
        worker.pipeline.run(None)
        assert [worker.progress(scan).n_verdicts for scan in found] == [8, 0, 0]
        assert {row.state for row in worker.rows(Batch, Batch.scan_id != found[0])} == {"ready"}


def test_a_scorer_that_changes_in_between_reads_for_itself(
    tmp_path: Path, alone: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleet(tmp_path / "p") as (worker, model, _):
        found = scan_all(worker, contents=dict(list(PICTURES.items())[:8]))

        def change() -> None:
            knife = next(row.check_id for row in worker.rows(Scan) if row.id == found[1])
            worker.scoring.scorers.forget(worker.scoring.scorers.resolve(knife))

        before_followers(worker, monkeypatch, change)
        worker.pipeline.run(None)
        assert model.n_images() == {("logo", "knife", "text"): 8, ("knife",): 8}
        assert worker.margins(found[1]).items() <= alone["knife"].items()
        assert all(worker.progress(scan).n_verdicts == 8 for scan in found)


def test_failures_are_each_scan_s_own(tmp_path: Path) -> None:
    contents = PICTURES | {"mem://a/99.png": b"no picture", "mem://a/98.png": b""}
    with fleet(tmp_path) as (worker, _, __):
        found = scan_all(worker, contents=contents)
        worker.drain()
        assert [(done.n_verdicts, done.n_failures) for done in map(worker.progress, found)] == [(16, 2)] * 3


def test_a_file_with_several_pictures_is_read_by_each_scan(tmp_path: Path) -> None:
    contents = {"mem://a/1.gif": animated("GIF", frames(4)), "mem://a/2.png": png(2)}
    with fleet(tmp_path / "a") as (worker, _, store):
        logo, knife = scan_all(worker, (LOGO, KNIFE), contents)
        worker.drain()
        together = [worker.margins(scan) for scan in (logo, knife)]
        assert store.fetched.count("mem://a/1.gif") == 2
        assert store.fetched.count("mem://a/2.png") == 1
        assert all(row.frames["n_scored"] == 4 for row in worker.rows(Verdict) if row.frames is not None)
    with fleet(tmp_path / "b") as (worker, _, __):
        assert [scored(worker, check, contents) for check in (LOGO, KNIFE)] == together


def scored(worker: Rig, check: Check, contents: dict[str, bytes]) -> dict[str, float]:
    scan = worker.scan(contents, check=check)
    worker.drain()
    return worker.margins(scan)


def test_the_same_bytes_under_two_names_are_answered_under_both(tmp_path: Path) -> None:
    contents = {f"mem://a/{number}.png": png(number % 3) for number in range(6)}
    with fleet(tmp_path) as (worker, model, store):
        found = scan_all(worker, contents=contents)
        worker.drain()
        assert (len(store.fetched), model.n_read) == (6, 3)
        assert [worker.progress(scan).n_verdicts for scan in found] == [6, 6, 6]


def test_what_a_scan_has_answered_before_is_not_asked_again(tmp_path: Path) -> None:
    with fleet(tmp_path) as (worker, model, _):
        worker.scan(PICTURES, check=KNIFE)
        worker.drain()
        model.forwards.clear()
        _, knife, __ = scan_all(worker)
        worker.drain()
        assert {asked for asked, _ in model.forwards} == {("logo", "text")}
        assert worker.progress(knife).n_reused == 16


def test_checks_that_read_another_size_have_a_pass_of_their_own(tmp_path: Path) -> None:
    small = question_named("small", max_pixels=64 * 64)
    boxes = question_named("boxes", boxes=True)
    with fleet(tmp_path) as (worker, model, _):
        found = scan_all(worker, (LOGO, small, boxes, TEXT))
        worker.pipeline.run(None)  # nobody is notified again of what was left to this worker
        assert [worker.progress(scan).n_verdicts for scan in found] == [8] * 4
        worker.drain()
        assert {asked for asked, _ in model.forwards} == {("logo", "text"), ("small",), ("boxes",)}
        assert [worker.progress(scan).n_verdicts for scan in found] == [16] * 4


def test_the_version_that_was_read_is_pinned_for_all(tmp_path: Path) -> None:
    with fleet(tmp_path) as (worker, _, store):
        listed = [image.__class__(uri=image.uri) for image in worker.put({"mem://a/1.png": png(1)})]
        for check in (LOGO, KNIFE):
            add_scan(worker.engine, listed, check=check, pass_id="p")
        worker.drain()
        assert store.fetched == ["mem://a/1.png"]
        assert len({row.seen_etag for row in worker.rows(Image)} - {None}) == 1
        assert all(row.seen_etag for row in worker.rows(Image))
        assert {row.size for row in worker.rows(Image)} == {len(png(1))}  # the listing did not tell it


def test_another_version_that_is_pinned_is_read_for_itself(tmp_path: Path) -> None:
    with fleet(tmp_path) as (worker, _, __):
        (image,) = worker.put({"mem://a/1.png": png(1)})
        for check in (LOGO, KNIFE):
            add_scan(worker.engine, [image.__class__(uri=image.uri)], check=check, pass_id="p")
        with transaction(worker.engine) as connection:
            second = worker.rows(Image)[1]
            connection.execute(Image.__table__.update().where(Image.id == second.id).values(seen_etag="older"))
        worker.drain()
        assert worker.failures() == {"mem://a/1.png": ("fetch", "changed")}
        assert len(worker.rows(Verdict)) == 1


def test_a_suspect_batch_is_run_by_itself(tmp_path: Path) -> None:
    with fleet(tmp_path) as (worker, model, _):
        found = scan_all(worker)
        with transaction(worker.engine) as connection:
            first = min(row.id for row in worker.rows(Batch, Batch.scan_id == found[0]))
            connection.execute(Batch.__table__.update().where(Batch.id == first).values(suspect=True))
        worker.drain()
        assert [n for asked, n in model.forwards if asked == ("logo",)] == [1] * 8  # image by image
        assert [worker.progress(scan).n_verdicts for scan in found] == [16] * 3
