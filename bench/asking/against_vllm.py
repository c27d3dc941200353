"""Our throughput against vLLM's: same weights, same images, same cores, from the bytes of files to label probabilities.

One question, and five about each image, both in either order; vLLM caches prefixes, so that image first it reads an
image once. The faster order of each side counts. vLLM needs a Python of its own, which `BENCH_VLLM` names. Each round
has new images, so that no cache answers for an earlier one, and both sides take turns.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

import structlog

from bench.archive import draw
from bench.asking import vllm_rounds
from bench.report import REPEATS, Report, Skipped
from bench.stages import Bench, bench
from scanfleet.checks.check import Check
from scanfleet.config.settings import load_settings
from scanfleet.models import pocket
from scanfleet.models.network.base import load_base
from scanfleet.models.network.cpu.allocator import keep_freed_memory
from scanfleet.models.types import Order, Scorer
from scanfleet.worker.batch.passes.scorer import PassScorer
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import LoadedModel

PYTHON = "BENCH_VLLM"
IMAGES = {128: 128, 448: 32}  # side in pixels -> images of a round
THINGS = ("a logo", "a price", "a face", "a watermark", "a caption")
LABELS = ("overlay", "natural", "none")


class InOrder(LoadedModel):
    """Asks each menu once, as the other side does."""

    rotates = False


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Medians over the rounds, in seconds for each image."""

    wall: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Duel:
    """What both sides spend on one size, with as many questions, by order. same: share of equal answers to the first
    question, of those whose letters vLLM lists."""

    ours: dict[str, Spent]
    theirs: dict[str, Spent]
    same: float

    def ratio(self, name: str) -> float:
        """Return how many times as fast ours is, each in its faster order. name: wall or cpu."""
        ours, theirs = (min(getattr(each, name) for each in side.values()) for side in (self.ours, self.theirs))
        return float(theirs / ours)


def run() -> Report:
    python = _python()
    keep_freed_memory()  # as in a worker
    # The base weights prefer other words to the letters, and a worker would say so for each chunk.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    model = InOrder(load_base("pocket", precision="fp32", device="cpu"))
    with TemporaryDirectory() as folder, _vllm(python) as theirs:
        duels = {
            (side, k): duel(model, theirs, Path(folder), side=side, k=k) for side in IMAGES for k in (1, len(THINGS))
        }
    return _report(duels)


def _report(duels: dict[tuple[int, int], Duel]) -> Report:
    def worst(k: int, name: str) -> float:
        return min(found.ratio(name) for (_, n), found in duels.items() if n == k)

    k = len(THINGS)
    figures = {
        "vs_vllm_1": worst(1, "wall"),
        "vs_vllm_5": worst(k, "wall"),
        "vs_vllm_1_cpu": worst(1, "cpu"),
        "vs_vllm_5_cpu": worst(k, "cpu"),
        "same_answers": min(found.same for found in duels.values()),
        "images_per_s": {
            f"{side} px, {n}": {
                f"{who}, {order}": 1 / spent.wall
                for who, side_ in (("ours", found.ours), ("vllm", found.theirs))
                for order, spent in side_.items()
            }
            for (side, n), found in duels.items()
        },
        "cpu_ms_per_image": {
            f"{side} px, {n}": {
                f"{who}, {order}": 1000 * spent.cpu
                for who, side_ in (("ours", found.ours), ("vllm", found.theirs))
                for order, spent in side_.items()
            }
            for (side, n), found in duels.items()
        },
    }
    notes = ("images/s and processor time of an image, by side, number of questions and order; fp32, base weights",)
    return Report(name="vllm", figures=figures, notes=notes)


def duel(model: InOrder, theirs: subprocess.Popen[str], folder: Path, *, side: int, k: int) -> Duel:
    """Measure both sides in turn, over the same new images in each round, after a round that does not count."""
    rounds: dict[tuple[str, str], list[Spent]] = {}
    same: list[bool] = []
    for order in get_args(Order):
        resolved = [resolve_alone(model, check_of(thing, order), None) for thing in THINGS[:k]]
        settings = load_settings(data_dir=folder, model="pocket", log_level="error")
        with bench(settings, model, together(model, resolved)) as ours:
            for number in range(REPEATS + 1):
                files = draw(IMAGES[side], side=side, seed=100 * number + k)
                mine, answers = _our_round(ours, files, theirs.pid)
                his, told = _their_round(theirs, folder, files, resolved)
                same += [a == b for a, b in zip(answers, told, strict=True) if b is not None]
                if number:
                    rounds.setdefault(("ours", order), []).append(mine)
                    rounds.setdefault(("vllm", order), []).append(his)
    medians = {key: _median(spent) for key, spent in rounds.items()}
    by_side = {who: {order: medians[who, order] for order in get_args(Order)} for who in ("ours", "vllm")}
    return Duel(ours=by_side["ours"], theirs=by_side["vllm"], same=statistics.mean(same))


def check_of(thing: str, order: Order) -> Check:
    return Check(
        name="asked",
        prompt=f"Does this image show {thing}, added on top of the picture or in the scene?",
        labels=LABELS,
        flags=LABELS[:1],
        min_pixels=64 * 64,
        order=order,
    )


def together(model: InOrder, resolved: Sequence[Resolved]) -> Resolved:
    """Return the first, whose scorer asks the others' questions along, as in a pass of several checks."""
    first, *others = resolved
    several = model.together([each.scorer for each in resolved])
    if not others or several is None:
        return first
    return replace(first, scorer=cast("Scorer", PassScorer(first.scorer, others, several)))


def _our_round(ours: Bench, files: Sequence[bytes], vllm: int) -> tuple[Spent, list[str]]:
    before = vllm_rounds.cpu_seconds(os.getpid(), without=vllm)
    found = ours.score(files)
    cpu = vllm_rounds.cpu_seconds(os.getpid(), without=vllm) - before
    spent = Spent(wall=found.wall_seconds / len(files), cpu=cpu / len(files))
    return spent, [verdict.label for verdict in found.verdicts]


def _their_round(
    theirs: subprocess.Popen[str], folder: Path, files: Sequence[bytes], resolved: Sequence[Resolved]
) -> tuple[Spent, list[str | None]]:
    """Return the answers to the first question, too."""
    prompts = [cast("Any", each.scorer).mapped.prompt for each in resolved]
    paths = [folder / f"{number}.image" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    ids = [code.answer_id for code in prompts[0].codes]
    asked = {"files": list(map(str, paths)), "prompts": [prompt.turn.text for prompt in prompts], "ids": ids}
    answer = _ask(theirs, asked)
    spent = Spent(wall=answer["wall"] / len(files), cpu=answer["cpu"] / len(files))
    return spent, [_likeliest(listed) for listed in answer["logprobs"][:: len(prompts)]]


def _likeliest(listed: Sequence[float | None]) -> str | None:
    """Return the likeliest label, by its letter alone; None: the model prefers 20 other words to one of the letters."""
    known = [(value, label) for value, label in zip(listed, LABELS, strict=True) if value is not None]
    return max(known)[1] if len(known) == len(LABELS) else None


def _median(spent: Sequence[Spent]) -> Spent:
    return Spent(wall=statistics.median(each.wall for each in spent), cpu=statistics.median(each.cpu for each in spent))


def _python() -> str:
    """Return a Python that has vLLM. Raises Skipped."""
    named = os.environ.get(PYTHON) or None
    if named is None and importlib.util.find_spec("vllm") is not None:
        return sys.executable
    if named is None:
        raise Skipped(f"vLLM is not installed: name a Python that has it in {PYTHON} (docs/benchmarks.md#vllm)")
    looked = [named, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"]
    try:
        subprocess.run(looked, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise Skipped(f"{PYTHON}={named} is no Python with vLLM (docs/benchmarks.md#vllm)") from None
    return named


@contextmanager
def _vllm(python: str) -> Iterator[subprocess.Popen[str]]:
    """Yield the other side, ready."""
    script = str(Path(vllm_rounds.__file__))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        _ask(process, {"model": str(pocket.folder()), "min_pixels": 64 * 64, "max_pixels": 448 * 448})
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _ask(theirs: subprocess.Popen[str], asked: dict[str, Any]) -> dict[str, Any]:
    assert theirs.stdin is not None
    assert theirs.stdout is not None
    theirs.stdin.write(json.dumps(asked) + "\n")
    theirs.stdin.flush()
    answer = theirs.stdout.readline()
    if not answer:
        raise RuntimeError("vLLM ended: see what it printed")
    found: dict[str, Any] = json.loads(answer)
    return found
