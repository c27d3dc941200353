"""The token budget that a probe finds on simulated devices, which move the clock themselves."""

import mmap
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil
import pytest
import structlog

from scanfleet.config.settings import load_settings
from scanfleet.errors import BadSettings, DeviceUnavailable
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import ModelIdentity, Question, Reading, Scorer
from scanfleet.worker.device.memory import KIB, HostMemory, memory_of
from scanfleet.worker.device.probe import QUESTION, UNPROBED_TOKENS, Probe, Step, budget_for, choose, probe
from scanfleet.worker.device.synthetic import jpeg, picture
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory
from scanfleet.worker.scoring.model import FakeModel, Model
from tests.rigs.worker_rig import png

SMALL, LARGE = 20, 256  # visual tokens of the fake's 128 and 448 px images


@dataclass
class Machine:
    """A device: `seconds(images, tokens of each)` moves the clock."""

    seconds: Callable[[int, int], float]
    now: float = 0.0
    packs: list[int] = field(default_factory=list)
    memory_images: int = 1_000_000

    def clock(self) -> float:
        return self.now


class MachineScorer(FakeScorer):
    def __init__(self, machine: Machine) -> None:
        super().__init__(question=QUESTION)
        self._machine = machine

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        self._machine.packs.append(len(prepared))
        if len(prepared) > self._machine.memory_images:
            raise OutOfDeviceMemory("out of memory")
        self._machine.now += self._machine.seconds(len(prepared), prepared[0].visual_tokens)
        return super().score(prepared)


def probed(machine: Machine, **how: object) -> Probe:
    return probe(cast("Scorer", MachineScorer(machine)), clock=machine.clock, **how)  # type: ignore[arg-type]


def test_a_device_that_gains_up_to_a_number_of_tokens_gets_that_number() -> None:
    machine = Machine(seconds=lambda n, each: 0.001 * max(1.0, n * each / 5000))  # a GPU: flat until it is full
    found = probed(machine)
    assert 4500 <= found.tokens <= 2 * 5000
    assert found.ended == {128: "no faster", 448: "no faster"}
    assert len(found.steps) == len({(step.side, step.images) for step in found.steps}) > 10


def test_small_images_do_not_gain_at_the_cost_of_large_ones() -> None:
    def cpu(n: int, each: int) -> float:
        slower = 1 + 0.3 * (n * each > 600)  # the pack falls out of the cache
        return 0.01 + 0.0001 * n * each * slower

    found = probed(Machine(seconds=cpu))
    assert 2 * LARGE <= found.tokens <= 600


def test_a_device_without_any_gain_gets_a_standard_image_at_once() -> None:
    found = probed(Machine(seconds=lambda n, each: 0.001 * n * each))
    assert found.tokens == LARGE
    assert found.steps[0].tokens == SMALL


def test_larger_packs_than_fit_are_not_tried_twice() -> None:
    machine = Machine(seconds=lambda n, each: 0.01, memory_images=5)
    found = probed(machine)
    assert found.ended == {128: "out of memory", 448: "out of memory"}
    assert found.tokens == 4 * LARGE
    assert machine.packs.count(8) == 2  # once for each size


def test_a_slow_device_is_tried_once_for_each_size() -> None:
    machine = Machine(seconds=lambda n, each: 60.0 * n)
    found = probed(machine, seconds=4.0)
    assert machine.packs == [1, 1, 1]  # to warm up, and one of each size
    assert found.ended == {128: "time", 448: "time"}


def test_memory_ends_the_ladder_before_the_device_does() -> None:
    @dataclass
    class Tight:
        packs: list[int]

        def begin(self) -> None:
            pass

        def taken(self) -> int | None:
            return 100 * self.packs[-1]

        def free(self) -> int | None:
            return 2000

    machine = Machine(seconds=lambda n, each: 0.01)
    found = probed(machine, memory=Tight(machine.packs))
    assert max(machine.packs) == 8  # 16 would take 1600 of 2000, and half of it may be taken
    assert set(found.ended.values()) == {"memory"}


@pytest.mark.parametrize("error", [DeviceBroken("gone"), DeviceUnavailable("unavailable")])
def test_a_broken_device_is_an_error_and_does_not_count_as_a_full_one(error: Exception) -> None:
    def fails(n: int, each: int) -> float:
        if n > 2:
            raise error
        return 0.01

    with pytest.raises(type(error)):
        probed(Machine(seconds=fails))


def test_choose_takes_the_smallest_budget_close_to_the_best() -> None:
    rates = {1: 10.0, 2: 19.0, 4: 30.0, 8: 30.5, 16: 31.0}
    steps = [Step(side=448, images=n, tokens=100 * n, images_per_second=rate) for n, rate in rates.items()]
    assert choose(steps) == 400
    assert choose([]) == UNPROBED_TOKENS


@dataclass
class ProbedModel:
    """A model on a device that can be probed."""

    machine: Machine
    scorer_error: Exception | None = None
    device: str = "odd"
    streams: int = 1
    one_by_one: bool = False
    identity: ModelIdentity = field(
        default_factory=lambda: ModelIdentity(base_model="m", revision="1", precision="fp32", adapter_sha256=None)
    )

    def plain(self, question: Question) -> Scorer:
        if self.scorer_error is not None:
            raise self.scorer_error
        return cast("Scorer", MachineScorer(self.machine))


def test_every_stream_computes_at_once() -> None:
    machine = Machine(seconds=lambda n, each: 0.06)
    probed(machine, streams=3)
    counts = [machine.packs.count(n) for n in (2, 4, 8)]
    assert all(counts)
    assert not any(n % 3 for n in counts)


def test_the_setting_precedes_the_probe(tmp_path: Path) -> None:
    machine = Machine(seconds=lambda n, each: 0.06)
    model = cast("Model", ProbedModel(machine))
    assert budget_for(load_settings(data_dir=tmp_path, token_budget=300), model) == 300
    assert not machine.packs
    with structlog.testing.capture_logs() as logs:
        tokens = budget_for(load_settings(data_dir=tmp_path), model)
    assert machine.packs
    (event,) = (each for each in logs if each["event"] == "token_budget_probed")
    assert event["token_budget"] == tokens
    assert event["curve"][0].startswith("1 x 128px: ")


def test_where_nothing_computes_nothing_is_probed(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    machine = Machine(seconds=lambda n, each: 0.06)
    assert budget_for(settings, FakeModel()) == UNPROBED_TOKENS
    assert budget_for(settings, cast("Model", ProbedModel(machine, one_by_one=True))) == UNPROBED_TOKENS
    assert not machine.packs


def test_a_probe_that_cannot_be_made_does_not_stop_a_worker(tmp_path: Path) -> None:
    model = cast("Model", ProbedModel(Machine(seconds=lambda n, each: 0.0), scorer_error=ValueError("no such codes")))
    with structlog.testing.capture_logs() as logs:
        assert budget_for(load_settings(data_dir=tmp_path), model) == UNPROBED_TOKENS
    assert [event["event"] for event in logs] == ["token_budget_not_probed"]


@pytest.mark.parametrize(
    ("value", "budget"), [("auto", "auto"), (" AUTO ", "auto"), ("512", 512), (512, 512), (None, "auto")]
)
def test_the_budget_is_a_number_or_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, budget: object
) -> None:
    assert load_settings(data_dir=tmp_path, token_budget=value).token_budget == budget
    if isinstance(value, str):
        monkeypatch.setenv("SCANFLEET_TOKEN_BUDGET", value)
        assert load_settings(data_dir=tmp_path).token_budget == budget


@pytest.mark.parametrize("value", ["fast", "15", 15, "", True, "1.5", "-20"])
def test_any_other_budget_is_refused_with_its_name(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadSettings, match="token_budget"):
        load_settings(data_dir=tmp_path, token_budget=value)


def test_generated_pictures_are_the_same_everywhere() -> None:
    assert jpeg(64, 48, seed=3) == jpeg(64, 48, seed=3) != jpeg(64, 48, seed=4)
    assert picture(64, 48).size == (64, 48)
    assert len(jpeg(128, 128)) > len(png(0)) / 2  # there is something to decode in it


def touch(n_bytes: int) -> None:
    """Not from the heap, which may hold as much of earlier tests."""
    with mmap.mmap(-1, n_bytes) as block:
        for page in range(0, n_bytes, mmap.PAGESIZE):
            block[page] = 1


@pytest.mark.skipif(not isinstance(memory_of("cpu"), HostMemory), reason="Linux only")
def test_memory_of_the_host_is_measured_where_a_piece_of_work_sets_a_new_peak() -> None:
    before = psutil.Process().memory_info().rss
    spare = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB - before)  # of earlier tests
    memory = HostMemory()
    taken = []
    for n_bytes in (spare + (200 << 20), 20 << 20):
        memory.begin()
        touch(n_bytes)
        taken.append(memory.taken())
    assert taken[0] is not None
    assert 150 << 20 < taken[0] - spare < 250 << 20
    assert taken[1] is None
    assert (memory.free() or 0) > 0


@pytest.mark.skipif(not isinstance(memory_of("cpu"), HostMemory), reason="Linux only")
@pytest.mark.parametrize(("limit", "free"), [("3000", 1000), ("1000", 0), ("max", psutil.virtual_memory().total)])
def test_a_container_has_no_more_memory_than_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr("scanfleet.worker.device.memory._CGROUP", tmp_path)
    found = HostMemory().free()
    assert found is not None
    assert found == free if limit != "max" else 3000 < found <= free
