"""Side by side with what people use: images/s and processor time an image, same images, same cores, no model.

`BENCH_RIVALS` names a Python that has some of them (docs/benchmarks.md#rivals); those that it has not are left out.
Each side has started and has run once before it is measured, and all take turns. The processor time is that of every
process, brokers and databases included.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.archive import draw
from bench.fleet import distinct
from bench.fleet.crowd import Crowd, crowd
from bench.fleet.meter import cpu_seconds
from bench.report import Report
from scanfleet.db.engine import reading
from scanfleet.db.scans import scans
from tests.services.process import LAUNCHER

PYTHON = "BENCH_RIVALS"
RIVALS = {"celery": "celery", "ray": "ray.data", "img2dataset": "img2dataset", "olmocr": "olmocr.work_queue"}
N_IMAGES, N_WARM, TURNS = 1024, 128, 3
SIDE, DRAWN = 448, 64  # pixels; different pictures
POLL_SECONDS = 0.1
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to do the work: `run` takes a folder and returns how many images were answered."""

    run: Callable[[Path], int]
    pids: list[int]  # of its processes, whose children count, too
    own: bool = False  # this process works for it
    rates: list[float] = field(default_factory=list)  # images/s
    cpu: list[float] = field(default_factory=list)  # milliseconds an image

    def turn(self, folder: Path, n: int) -> None:
        before, start = self._cpu_seconds(), time.perf_counter()
        done = self.run(folder)
        seconds = time.perf_counter() - start
        if done != n:
            raise AssertionError(f"{done} of {n} images were answered")
        self.rates.append(n / seconds)
        self.cpu.append(1000 * (self._cpu_seconds() - before) / n)

    def _cpu_seconds(self) -> float:
        return sum(map(sum, map(cpu_seconds, self.pids))) + (time.process_time() if self.own else 0.0)


def run() -> Report:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        here = stack.enter_context(crowd({"SCANFLEET_BATCH_IMAGES": "64", "SCANFLEET_RECONCILE_SECONDS": "1"}))
        here.start(1)
        sides = {"scanfleet": Side(run=lambda images: _scan(here, images), pids=list(here.pids.values()), own=True)}
        missing = [name for name in RIVALS if not _has(name)]
        for name in RIVALS:
            if name not in missing:
                sides[name] = stack.enter_context(_rival(name, here, folder / f"{name}.log"))
        files = draw(DRAWN, side=SIDE)
        for turn in range(TURNS + 1):
            n = N_IMAGES if turn else N_WARM
            images = folder / f"turn-{turn}"
            images.mkdir()
            for number, data in enumerate(distinct(files, n, salt=str(turn))):
                (images / f"{number:05}.jpg").write_bytes(data)
            for name, side in sides.items():
                side.turn(images, n)
                print(f"{name}: {side.rates[-1]:.0f} images/s, {side.cpu[-1]:.2f} ms", file=sys.stderr, flush=True)
    figures = {
        "images_per_s": {name: statistics.median(side.rates[1:]) for name, side in sides.items()},
        "cpu_ms_per_image": {name: statistics.median(side.cpu[1:]) for name, side in sides.items()},
    }
    notes = [
        f"{N_IMAGES} images of {SIDE} px from a folder, medians of {TURNS}; in place of a model, pixels are hashed"
    ]
    if missing:
        notes.append(f"not installed: {', '.join(missing)} (name a Python that has them in {PYTHON})")
    return Report(name="rivals", figures=figures, notes=tuple(notes))


def _scan(here: Crowd, images: Path) -> int:
    """Scan a folder, as `scanfleet scan --wait` does."""
    scan_id = here.enqueue(images)
    while True:
        with reading(here.engine) as connection:
            done = scans.progress(connection, scan_id)
        if not done.n_pending:
            return done.n_verdicts
        time.sleep(POLL_SECONDS)


def _python() -> str:
    return os.environ.get(PYTHON, sys.executable)


def _has(name: str) -> bool:
    """Return whether the Python for rivals can import this one."""
    command = [_python(), "-c", f"import {RIVALS[name]}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _rival(name: str, here: Crowd, log: Path) -> Iterator[Side]:
    """Start a rival, and end it with all its processes."""
    command = [
        sys.executable,
        "-I",
        "-S",
        str(LAUNCHER),
        str(os.getpid()),
        "--",
        _python(),
        "-m",
        f"bench.rivals.with_{name}",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["BENCH_REDIS"] = here.settings.broker
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    write, read = process.stdin, process.stdout

    def answer(word: str) -> str:
        """Return what follows a word; other lines are a rival's own."""
        for line in read:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError(f"{name} has ended: {log.read_text(errors='replace')[-2000:]}")

    def run(images: Path) -> int:
        write.write(f"{images}\n")
        write.flush()
        return int(answer("done"))

    answer("ready")
    redis = [here.pids["redis"]] if name == "celery" else []
    try:
        yield Side(run=run, pids=[process.pid, *redis])
    finally:
        write.close()
        process.wait(60)
