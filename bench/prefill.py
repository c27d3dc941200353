"""One prefill against generating the answer: from the bytes of files to verdicts, on the same images, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.archive import draw
from bench.loops import GenerateLoop
from bench.report import REPEATS, Report, median_seconds_side_by_side, seconds
from bench.stages import Bench, Run, bench
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import read_card
from scanfleet.models.network.base import load_base
from scanfleet.models.network.cpu.allocator import keep_freed_memory
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.model import LoadedModel

CHECK = "overlay"
NEW_TOKENS = 4  # of a short answer, such as "B) natural"
BATCHES = (8, 16, 32, 64)  # candidates for the batched loop; the fastest counts
IMAGES = {128: 256, 224: 128, 448: 48}  # side in pixels -> number of images
HEADLINE = 128  # pixels: the size that the pocket model was mostly trained on
ONE_BY_ONE = 4  # the loop of one image at a time gets a quarter of the images: its rate does not depend on their number


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Images/s of all loops in the same turns; first_token: a forward over the whole prompt without a further step."""

    side: int
    ours: float
    batch1: float
    batched: float
    first_token_batch1: float
    first_token_batched: float
    batch: int
    same_answers: float
    run: Run

    def ratios(self) -> dict[str, float]:
        return {
            "vs_generate_batch1": self.ours / self.batch1,
            "vs_generate_batched": self.ours / self.batched,
            "vs_first_token_batch1": self.ours / self.first_token_batch1,
            "vs_first_token_batched": self.ours / self.first_token_batched,
        }

    def line(self) -> str:
        return (
            f"{self.side} px, images/s: scorer {self.ours:.1f}; generate {self.batch1:.1f} one by one, "
            f"{self.batched:.1f} by {self.batch}; first token alone {self.first_token_batch1:.1f} and "
            f"{self.first_token_batched:.1f}; same answer for {self.same_answers:.1%}"
        )


def run() -> Report:
    keep_freed_memory()  # as in a worker; the loops profit from it too
    cores = torch.get_num_threads()
    adapter = pocket.adapter_folder(CHECK)
    base = load_base("pocket")
    scorer = factory.scorer(base, read_card(adapter).question, adapter)
    loop = GenerateLoop(base, scorer, adapter, threads=cores)
    codes = {code.label: code.code for code in scorer.prompt.codes}
    model = LoadedModel(base)
    with TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder), model="pocket", log_level="error")
        with bench(settings, model, resolve_alone(model, load_check(CHECK), adapter)) as ours:
            duels = {side: duel(ours, loop, codes, side=side, n=n) for side, n in IMAGES.items()}
    return _report(duels)


def duel(ours: Bench, loop: GenerateLoop, codes: dict[str, str], *, side: int, n: int) -> Duel:
    """Measure all loops over the same n images, in turn."""
    files = draw(n, side=side)
    few = files[: n // ONE_BY_ONE]
    letters = [codes[verdict.label] for verdict in ours.score(files).verdicts]
    batch = min(BATCHES, key=lambda size: seconds(lambda: loop.run(files, batch=size, new_tokens=NEW_TOKENS)))
    runs: list[Run] = []
    ways: list[tuple[Sequence[bytes], Callable[[], Any]]] = [
        (files, lambda: runs.append(ours.score(files))),
        (few, lambda: loop.run(few, batch=1, new_tokens=NEW_TOKENS)),
        (files, lambda: loop.run(files, batch=batch, new_tokens=NEW_TOKENS)),
        (few, lambda: loop.run(few, batch=1, new_tokens=1)),
        (files, lambda: loop.run(files, batch=batch, new_tokens=1)),
    ]
    taken = median_seconds_side_by_side(*(way for _, way in ways))
    rates = [len(images) / spent for (images, _), spent in zip(ways, taken, strict=True)]
    generated = loop.run(files, batch=batch, new_tokens=1)
    return Duel(
        side=side,
        ours=rates[0],
        batch1=rates[1],
        batched=rates[2],
        first_token_batch1=rates[3],
        first_token_batched=rates[4],
        batch=batch,
        same_answers=sum(map(str.__eq__, letters, generated)) / n,
        run=sorted(runs, key=lambda found: found.wall_seconds)[REPEATS // 2],
    )


def _report(duels: dict[int, Duel]) -> Report:
    headline = duels[HEADLINE]
    stages = {stage: round(value, 3) for stage, value in headline.run.stage_seconds.items()}
    figures = {
        "images_per_s": headline.ours,
        **headline.ratios(),
        "stage_seconds": stages,
        "device_idle_share": headline.run.device_idle_share,
        "same_answers": min(found.same_answers for found in duels.values()),
        "by_side": {str(side): {"images_per_s": found.ours, **found.ratios()} for side, found in duels.items()},
    }
    how = "bf16 on CUDA" if torch.cuda.is_available() else "fp32 on the CPU"
    notes = (f"the figures above are of {HEADLINE} px; {how}", *(found.line() for found in duels.values()))
    return Report(name="prefill", figures=figures, notes=notes)
