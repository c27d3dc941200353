"""Decoder children: an error in one affects one image, and none outlives its limits or its worker."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from structlog.testing import capture_logs

from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import load_settings
from scanfleet.decoding.pool import Decoders
from scanfleet.decoding.process import ChildDied, DecoderProcess, _cpu_seconds
from scanfleet.decoding.protocol import COUNT, FRAME, LENGTH, NONE, READY, Wanted
from scanfleet.decoding.seats import Seats
from scanfleet.decoding.spawning import ChildSettings
from scanfleet.errors import DecodersUnavailable, DeviceUnavailable, ImageError
from scanfleet.images import Enough
from scanfleet.images.decoding import decode as decode_here
from scanfleet.images.decoding import decode_frames as decode_frames_here
from scanfleet.images.types import FrameChoice
from tests.helpers.animations import animated, frames
from tests.helpers.extra_files import video
from tests.helpers.odd_files import encoded, noise

MEGABYTE = 1 << 20


@contextmanager
def decoders(folder: Path, *, real: bool = False, n_children: int = 2, **how: Any) -> Iterator[Decoders]:
    settings = load_settings(
        data_dir=folder,
        max_image_pixels=1_000_000,
        decode_cpu_seconds=how.pop("cpu_seconds", 5),
        stretch_samples=how.pop("stretch_samples", True),
    )
    decode = "scanfleet.images.decoding:decode" if real else "tests.helpers.bad_decoders:decode"
    made = Decoders(settings, n_children=n_children, decode=decode, **how)
    try:
        yield made
    finally:
        made.close()


def fault(pool: Decoders, order: str) -> tuple[str, str]:
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(pool.decode, order.encode())
        try:
            error = future.exception(60)
        except TimeoutError:
            pool.close()  # else the thread waits forever
            raise
    assert isinstance(error, ImageError)
    assert error.stage == "decode"
    return error.reason, error.detail


def until(holds: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# what a child gives back


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (448, 448), (1000, 700), (1, 5000), (100_000, 3)])
def test_the_same_pixels_as_in_this_process(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    with decoders(tmp_path, real=True) as pool:
        there, here = pool.decode(data), decode_here(data, max_pixels=1_000_000)
    assert (there.width, there.height, there.format, there.image.mode) == (*size, "PNG", "RGB")
    assert there.image.tobytes() == here.image.tobytes()


def test_the_notes_of_a_picture_and_its_stretching(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(np.full((8, 8), 4095, np.uint16)), "PNG")
    with decoders(tmp_path, real=True) as pool:
        bright = pool.decode(data)
    assert bright.image.getpixel((0, 0)) == (255,) * 3
    assert "12 bits" in bright.notes[0]
    with decoders(tmp_path, real=True, stretch_samples=False) as pool:
        dark = pool.decode(data)
    assert (dark.image.getpixel((0, 0)), dark.notes) == ((15,) * 3, ())


def test_a_child_sends_no_more_pixels_than_are_enough(tmp_path: Path) -> None:
    data = encoded(Image.effect_noise((900, 601), 50).convert("RGB"), "JPEG")
    enough = Enough(pixels=60_000, short_side=100)
    with decoders(tmp_path, real=True) as pool:
        whole, part = pool.decode(data), pool.decode(data, enough=enough)
        here = decode_here(data, max_pixels=1_000_000, enough=enough)
    assert whole.image.size == (whole.width, whole.height) == (900, 601)
    assert (part.image.size, part.width, part.height) == ((450, 301), 900, 601)
    assert part.image.tobytes() == here.image.tobytes()


@pytest.mark.parametrize("data", [b"", b"words", encoded(Image.new("RGB", (9, 9)), "BMP")[:90]])
def test_the_same_refusals_as_in_this_process(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError) as here:
        decode_here(data, max_pixels=1_000_000)
    with decoders(tmp_path, real=True) as pool, pytest.raises(ImageError) as there:
        pool.decode(data)
    assert str(there.value) == str(here.value)
    assert len(str(here.value)) > 20


def test_a_refusal_of_odd_characters(tmp_path: Path) -> None:
    with decoders(tmp_path) as pool:
        assert fault(pool, "refuse") == ("truncated", "? half a picture \0")


def test_a_file_larger_than_any_pipe(tmp_path: Path) -> None:
    with decoders(tmp_path, real=True) as pool:
        padded = encoded(Image.new("RGB", (5, 5)), "PNG") + bytes(8 * MEGABYTE)
        assert pool.decode(padded).width == 5


def test_many_threads_share_few_children(tmp_path: Path) -> None:
    images = [encoded(Image.new("RGB", (n + 1, 3)), "PNG") for n in range(200)]
    with ThreadPoolExecutor(12) as threads, decoders(tmp_path, real=True) as pool:
        assert [decoded.width for decoded in threads.map(pool.decode, images)] == list(range(1, 201))
        assert 1 <= len(pool.pids) <= 2


def test_no_child_before_the_first_image(tmp_path: Path) -> None:
    with decoders(tmp_path) as pool:
        assert pool.pids == []


# errors of a child


def test_an_image_that_crashes_its_decoder_is_tried_three_times_and_named(tmp_path: Path) -> None:
    with decoders(tmp_path) as pool, capture_logs() as logs:
        assert fault(pool, "abort") == ("kills_the_decoder", "3 processes ended: SIGABRT, SIGABRT, SIGABRT")
        assert pool.decode(b"picture").width == 4
    deaths = [entry for entry in logs if entry["event"] == "decoder_died"]
    assert [entry["deaths"] for entry in deaths] == [1, 2, 3]
    assert "bad_decoders.py" in deaths[0]["stderr_tail"]  # whose decoder it was


def test_a_decoder_that_dies_twice_and_then_does_not(tmp_path: Path) -> None:
    (tmp_path / "deaths").mkdir()
    with decoders(tmp_path) as pool:
        assert pool.decode(f"abort_until {tmp_path}/deaths 2".encode()).width == 4
        assert len(list((tmp_path / "deaths").iterdir())) == 2


def test_a_fault_of_the_decoder_itself_counts_as_a_crash(tmp_path: Path) -> None:
    with decoders(tmp_path) as pool, capture_logs() as logs:
        assert fault(pool, "crash")[0] == "kills_the_decoder"
    said = [each["stderr_tail"] for each in logs if "stderr_tail" in each]
    assert "AssertionError: a fault of the decoder's own" in said[0]


def test_neighbours_of_a_crash_know_nothing_of_it(tmp_path: Path) -> None:
    orders = ["abort" if n % 10 == 3 else f"picture {n + 1} 2" for n in range(40)]
    with ThreadPoolExecutor(4) as threads, decoders(tmp_path) as pool:
        futures = [threads.submit(pool.decode, order.encode()) for order in orders]
        for n, future in enumerate(futures):
            if n % 10 == 3:
                assert isinstance(future.exception(), ImageError)
            else:
                assert future.result().width == n + 1


def test_the_last_try_is_alone(tmp_path: Path) -> None:
    """What a neighbour takes of the machine must not be what kills an image."""
    (tmp_path / "deaths").mkdir()
    with ThreadPoolExecutor(2) as threads, decoders(tmp_path) as pool:
        neighbour = threads.submit(pool.decode, f"wait {tmp_path}".encode())
        until(lambda: bool(list(tmp_path.glob("began-*"))))
        dying = threads.submit(pool.decode, f"abort_until {tmp_path}/deaths 2".encode())
        until(lambda: len(list((tmp_path / "deaths").iterdir())) == 2)
        until(lambda: pool.seats._reserved)
        assert not dying.done()
        (tmp_path / "go").touch()
        assert dying.result(30).width == neighbour.result(30).width == 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_more_than_the_seats_are_taken_at_once(n: int) -> None:
    seats, entered = Seats(n), threading.Event()

    def one_more() -> None:
        with seats.taken(alone=False):
            entered.set()

    for _ in range(2):  # as many are free again afterwards
        entered.clear()
        with ExitStack() as taken:
            for _ in range(n):
                taken.enter_context(seats.taken(alone=False))
            waiting = threading.Thread(target=one_more)
            waiting.start()
            assert not entered.wait(0.2)
        assert entered.wait(30)
        waiting.join(30)
    seats.wait_empty(0)
    assert seats._taken == 0


def test_a_thread_that_waits_goes_on_when_more_are_allowed() -> None:
    seats, entered = Seats(1), threading.Event()

    def one_more() -> None:
        with seats.taken(alone=False):
            entered.set()

    with seats.taken(alone=False):
        assert not seats.take_lack()
        waiting = threading.Thread(target=one_more)
        waiting.start()
        until(seats.take_lack)
        assert not entered.is_set()
        seats.allow(2)
        assert entered.wait(30)
        waiting.join(30)


def test_children_that_nobody_needs_end(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads, decoders(tmp_path, idle_seconds=0.0) as pool:
        at_once = [threads.submit(pool.decode, f"wait {tmp_path}".encode()) for _ in range(2)]
        until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
        children = pool.pids
        (tmp_path / "go").touch()
        assert [each.result(30).width for each in at_once] == [4, 4]
        until(lambda: len(pool.pids) == 1)
        assert sum(map(gone, children)) == 1
        assert pool.decode(b"picture").width == 4
        assert set(pool.pids) < set(children)


def test_too_much_cpu_time(tmp_path: Path) -> None:
    with decoders(tmp_path, cpu_seconds=0.3) as pool:
        assert fault(pool, "burn") == ("too_slow", "over 0.3 s of CPU time")
        assert pool.decode(b"picture").width == 4


def test_too_much_cpu_time_of_a_child_that_has_no_limit(tmp_path: Path) -> None:
    with decoders(tmp_path, cpu_seconds=0.3) as pool:
        assert fault(pool, "burn_and_ignore")[0] == "too_slow"


def test_the_cpu_limit_is_of_one_image(tmp_path: Path) -> None:
    with decoders(tmp_path, cpu_seconds=0.2, n_children=1) as pool:
        pool.decode(b"picture")
        (child,) = pool.pids
        before = sum(psutil.Process(child).cpu_times()[:2])
        while sum(psutil.Process(child).cpu_times()[:2]) - before < 0.5:
            pool.decode(b"picture 1000 900")
        assert pool.pids == [child]


def test_a_frozen_child_is_not_too_slow(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads, decoders(tmp_path, cpu_seconds=0.3) as pool:
        answer = threads.submit(pool.decode, f"wait {tmp_path}".encode())
        until(lambda: bool(list(tmp_path.glob("began-*"))))
        (child,) = pool.pids
        os.kill(child, signal.SIGSTOP)
        time.sleep(1.0)  # more than its CPU seconds
        os.kill(child, signal.SIGCONT)
        (tmp_path / "go").touch()
        assert answer.result(30).width == 4


def test_too_much_memory(tmp_path: Path) -> None:
    with decoders(tmp_path, memory=64 * MEGABYTE) as pool:
        assert fault(pool, "allocate")[0] == "too_much_memory"
        assert pool.decode(b"picture").width == 4


def test_what_an_earlier_image_left_behind_is_not_the_next_one_s_fault(tmp_path: Path) -> None:
    with decoders(tmp_path, memory=64 * MEGABYTE, n_children=1) as pool:
        for _ in range(6):
            pool.decode(b"leak 30")


def test_a_fresh_child_follows_one_that_ran_out_of_memory(tmp_path: Path) -> None:
    """The other idle ones may have as little left, and stay."""
    with ThreadPoolExecutor(2) as threads, decoders(tmp_path, memory=64 * MEGABYTE, n_children=2) as pool:
        at_once = [threads.submit(pool.decode, f"wait {tmp_path}".encode()) for _ in range(2)]
        until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
        (tmp_path / "go").touch()
        assert [each.result(30).width for each in at_once] == [4, 4]
        before = set(pool.pids)
        assert fault(pool, "allocate")[0] == "too_much_memory"
        assert len(before & set(pool.pids)) == 1


@pytest.mark.slow
def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    with decoders(tmp_path, still_seconds=1.0) as pool:
        assert fault(pool, "hang") == ("kills_the_decoder", "3 processes ended: still, still, still")


def test_a_child_that_prints(tmp_path: Path) -> None:
    with decoders(tmp_path, n_children=1) as pool:
        for _ in range(5):
            assert pool.decode(b"shout").width == 4
        assert len(pool.pids) == 1


@pytest.mark.parametrize("order", ["lie", "swell", "boast"])
def test_a_child_whose_answer_is_impossible(tmp_path: Path, order: str) -> None:
    with decoders(tmp_path) as pool:
        assert fault(pool, order) == ("kills_the_decoder", "3 processes ended: nonsense, nonsense, nonsense")


def test_an_idle_child_that_was_killed_costs_no_image_a_try(tmp_path: Path) -> None:
    with decoders(tmp_path, n_children=1) as pool, capture_logs() as logs:
        for _ in range(4):
            pool.decode(b"picture")
            (child,) = pool.pids
            os.kill(child, signal.SIGKILL)
            until(lambda child=child: gone(child))
        assert pool.decode(b"picture").width == 4
    assert {entry["event"] for entry in logs} == {"idle_decoder_died"}


# transient errors


@pytest.mark.parametrize("decode", ["tests.helpers.bad_decoders:absent", "no.such.module:decode"])
def test_a_child_that_cannot_begin_is_no_image_s_fault(tmp_path: Path, decode: str) -> None:
    pool = Decoders(load_settings(data_dir=tmp_path), decode=decode)
    with pytest.raises(DeviceUnavailable, match=r"did not start \(exit code 1\).*Error"):
        pool.decode(b"picture")
    assert pool.pids == []
    pool.close()


def test_no_process_to_be_had_is_no_image_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with decoders(tmp_path) as pool:
        with monkeypatch.context() as context:
            context.setattr(sys, "executable", str(tmp_path / "not-there"))
            with pytest.raises(DecodersUnavailable, match="No such file"):
                pool.decode(b"picture")
        assert pool.decode(b"picture").width == 4


def test_what_a_child_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    for name in ("DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.setenv(name, "C.UTF-8")
    monkeypatch.setenv("SCANFLEET_DATABASE_URL", "postgresql://u:hush@h/d")
    with decoders(tmp_path, cpu_seconds=7, memory=500 * MEGABYTE) as pool:
        _, told = fault(pool, "whoami")
        assert re.findall(r"'([A-Z_]{4,})'", told.rpartition("[")[2]) == [
            "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "MALLOC_MMAP_THRESHOLD_",
            "MALLOC_TRIM_THRESHOLD_", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONPATH", "SYSTEMROOT", "TMPDIR",
        ]  # fmt: skip
        assert told.startswith("cores (0, 0), 7.0 s, 5")  # hundred and so many megabytes: what it began with is added
        assert "ignores ['SIGINT', 'SIGTERM']" in told
        command = psutil.Process(pool.pids[0]).cmdline()
        assert not any(word in " ".join(command) for word in ("hush", "torch"))


def test_a_child_loads_neither_torch_nor_the_queue() -> None:
    lines = "import sys, scanfleet.decoding.child as child; "
    limits = "0, 1, 1.0, 1, True, 'scanfleet.images.decoding:decode', child.NONE"
    lines += f"child._load(child.Limits({limits})); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split()
    unwanted = {"torch", "celery", "sqlalchemy", "pydantic", "boto3", "structlog", "cv2", "pypdfium2", "pydicom"}
    assert not unwanted & set(loaded)
    assert {"PIL.Image", "scanfleet.images", "simplejpeg"} <= set(loaded)


# the end


def test_close_ends_all_children_and_closes_all_pipes(tmp_path: Path) -> None:
    me = psutil.Process()
    with decoders(tmp_path) as pool:  # what the first one brings along for good
        pool.decode(b"picture")
    before = me.num_fds()
    for _ in range(3):
        with ThreadPoolExecutor(2) as threads, decoders(tmp_path) as pool:
            list(threads.map(pool.decode, [b"picture"] * 20))
            with pytest.raises(ImageError):
                pool.decode(b"abort")
            children = pool.pids
            assert children
        assert all(map(gone, children))
    assert me.num_fds() == before
    assert not [child for child in me.children() if "decoder_child" in " ".join(child.cmdline())]


def test_close_frees_the_threads_that_wait(tmp_path: Path) -> None:
    with decoders(tmp_path, n_children=1) as pool:
        faults: list[BaseException | None] = []
        with ThreadPoolExecutor(3) as threads:
            waiting = [threads.submit(pool.decode, f"wait {tmp_path}".encode()) for _ in range(3)]
            until(lambda: bool(list(tmp_path.glob("began-*"))))
            pool.close()
            faults = [future.exception(30) for future in waiting]
        assert [type(error) for error in faults] == [DecodersUnavailable] * 3
        with pytest.raises(DecodersUnavailable):
            pool.decode(b"picture")


def test_children_go_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Whether they hang or wait for work."""
    lines = f"""
import sys, threading, time
from pathlib import Path
from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import load_settings
from scanfleet.decoding.pool import Decoders
pool = Decoders(load_settings(data_dir={str(tmp_path)!r}), n_children=2, decode="tests.helpers.bad_decoders:decode")
threading.Thread(target=pool.decode, args=[b"wait {tmp_path}"], daemon=True).start()
while not list(Path({str(tmp_path)!r}).glob("began-*")):
    time.sleep(0.01)
pool.decode(b"picture")
print(*pool.pids, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        children = [int(pid) for pid in worker.stdout.readline().split()]
        try:
            assert len(children) == 2
            assert not any(map(gone, children))
        finally:
            worker.kill()
        until(lambda: all(map(gone, children)), seconds=10)


def test_an_idle_child_ends_when_its_pipe_does(tmp_path: Path) -> None:
    """Where the kernel does not tell it of its worker's death."""
    limits = (os.getpid(), 100, 5, 512 * MEGABYTE, 1, "scanfleet.images.decoding:decode", NONE)
    command = [sys.executable, "-m", "scanfleet.decoding.child", *map(str, limits)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    out, _ = child.communicate(b"", timeout=30)
    assert (child.returncode, out) == (0, LENGTH.pack(len(READY)) + READY)


def test_children_outlive_the_threads_that_asked_for_them(tmp_path: Path) -> None:
    with decoders(tmp_path, n_children=1) as pool:
        thread = threading.Thread(target=pool.decode, args=[b"picture"])
        thread.start()
        thread.join()
        until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())  # the kernel's thread outlives Python's
        before = pool.pids
        pool.decode(b"picture")
        assert pool.pids == before


def test_ctrl_c_and_sigterm_are_the_worker_s_business(tmp_path: Path) -> None:
    with decoders(tmp_path, n_children=1) as pool:
        pool.decode(b"picture")
        before = pool.pids
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(before[0], number)
        assert pool.decode(b"picture").width == 4
        assert pool.pids == before


def test_largest_allowed_picture_fits_the_memory_limit(tmp_path: Path) -> None:
    """The layers that a transparent, turned picture needs at once."""
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    image = Image.new("RGBA", (4000, 3000), (9, 9, 9, 99))
    image.save(buffer, "PNG", exif=turned.tobytes(), compress_level=1)
    settings = load_settings(data_dir=tmp_path, max_image_pixels=12_000_000, max_image_bytes=1)
    pool = Decoders(settings, n_children=1)
    try:
        assert pool.decode(buffer.getvalue()).width == 3000
    finally:
        pool.close()


def test_frames_of_a_file_come_as_they_are_decoded_here(tmp_path: Path) -> None:
    data = animated("GIF", frames(20), duration=50)
    with decoders(tmp_path, real=True, n_children=1) as pool:
        here = list(decode_frames_here(data, max_pixels=1_000_000, frames=FrameChoice(8, "mixed")))
        there = pool.decode_frames(data, frames=FrameSettings())
        assert [(one.frame, one.n_frames) for one in there] == [(one.frame, one.n_frames) for one in here]
        assert [one.image.tobytes() for one in there] == [one.image.tobytes() for one in here]
        seventh = pool.decode(data, frame=7)
        assert seventh.frame is not None
        assert (seventh.frame.number, seventh.n_frames) == (7, 20)
        firsts = pool.decode_frames(data, frames=FrameSettings(max=3, pick="first"))
        assert [one.frame.number for one in firsts if one.frame] == [0, 1, 2]
        (still,) = pool.decode_frames(encoded(noise(), "PNG"), frames=FrameSettings())
        assert (still.frame, still.n_frames) == (None, 1)


def test_frames_of_one_file_differ_in_size(tmp_path: Path) -> None:
    sizes = [(64, 32), (32, 96), (16, 16)]
    with decoders(tmp_path, real=True, n_children=1) as pool:
        found = pool.decode_frames(animated("TIFF", [noise(*size) for size in sizes]), frames=FrameSettings())
        assert [one.image.size for one in found] == sizes


@pytest.mark.parametrize(
    "answer",
    ["5 picture", "3 picture 600 600"],  # more than were asked for; more pixels than one image may have
)
def test_frames_that_were_not_asked_for_are_nonsense(tmp_path: Path, answer: str) -> None:
    with decoders(tmp_path) as pool:
        assert len(pool.decode_frames(b"4 picture", frames=FrameSettings(max=4))) == 4
        with pytest.raises(ImageError) as caught:
            pool.decode_frames(answer.encode(), frames=FrameSettings(max=4))
        assert "nonsense" in caught.value.detail


class Forger(ChildSettings):
    """A child that an image has taken over: it answers with frames that nobody asked for."""

    def command(self, memory: int) -> list[str]:
        said = [READY, COUNT.pack(2) + 2 * FRAME.pack(*([1] * 6), 1, 0, 2, 0, 0.0, b"PNG", NONE, 3)]
        forged = b"".join(LENGTH.pack(len(message)) + message for message in said) + b"abcabc"
        return [sys.executable, "-c", f"import os, sys; os.write(1, {forged!r}); sys.stdin.read()"]


def test_one_frame_was_asked_for_and_a_second_is_nonsense() -> None:
    forger = Forger(max_pixels=100, cpu_seconds=5, memory_bytes=MEGABYTE, stretch=True, decode="")
    child = DecoderProcess(forger)
    child.wait_ready()
    with pytest.raises(ChildDied, match="nonsense"):
        child.decode([b"picture"], Wanted())
    assert not child.alive


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_cpu_time_of_a_process_of_any_name() -> None:
    name = b"odd) 1 2 3 4"
    before = Path("/proc/self/comm").read_bytes()
    try:
        Path("/proc/self/comm").write_bytes(name)
        assert Path(f"/proc/{os.getpid()}/comm").read_bytes().strip() == name
        assert abs(_cpu_seconds(os.getpid()) - time.process_time()) < 1.0
    finally:
        Path("/proc/self/comm").write_bytes(before)


def test_the_library_of_an_extra_is_no_memory_of_the_image(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    memory = 128 * MEGABYTE  # less than OpenCV's own size
    with decoders(tmp_path, real=True, n_children=1, memory=memory) as pool:
        assert len(pool.decode_frames(video("mp4"), frames=FrameSettings())) == 8
        assert len(pool.pids) == 1
        (pid,) = pool.pids
        soft, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_AS)
        mapped = psutil.Process(pid).memory_info().vms
        assert mapped < soft < hard
        assert soft - mapped < memory
