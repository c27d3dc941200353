"""A whole fleet against the bare scorer: through S3, Redis and PostgreSQL, and on pictures already in memory.

The bare scorer is this process: the same model and adapter, the same token budget, the same number of forwards at once,
pictures decoded beforehand. The fleet's further work (listing, fetching, hashing, decoding, every transaction, and the
servers themselves) runs on the same cores.
"""

from __future__ import annotations

import io
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from bench.archive import draw
from bench.fleet.meter import Sample, cpu_used, rss_watched
from bench.fleet.rig import CHECK, Fleet, Scanned, fleet
from bench.report import REPEATS, Report, seconds
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.models.types import Scorer
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.device.probe import budget_for
from scanfleet.worker.scoring.model import load_model

IMAGES = {448: 512, 128: 2048}  # side in pixels -> images a turn; the first is the headline
DRAWN = 128  # different pictures of each side; each becomes as many files as needed
EARLY, LATE = 1_000, 20_000  # images, between which memory may not grow
MEBIBYTE = 1 << 20
MIN_SHOWN_MS = 0.05


@dataclass(frozen=True, kw_only=True)
class Duel:
    """The result for one size of picture, medians of several turns; cpu_ms: processor time per image, by process."""

    side: int
    fleet: float  # images/s
    bare: float
    ratio: float
    idle: float
    cpu_ms: dict[str, float]

    @property
    def fleet_cpu_ms(self) -> float:
        """Of everything but the bare scorer and the S3 server, which stands for a server on other machines."""
        return sum(value for name, value in self.cpu_ms.items() if not name.startswith(("bare", "s3")))

    def figures(self) -> dict[str, float]:
        return {
            "images_per_s": self.fleet,
            "bare_per_s": self.bare,
            "fleet_vs_bare": self.ratio,
            "cpu_vs_bare": self.cpu_ms["bare"] / self.fleet_cpu_ms,
        }

    def line(self) -> str:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.cpu_ms.items() if value > MIN_SHOWN_MS)
        return (
            f"{self.side} px, images/s: fleet {self.fleet:.1f}, bare {self.bare:.1f}; device idle {self.idle:.0%}; "
            f"processor ms per image: {parts}"
        )


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Resident memory of the worker and its decoders, in bytes."""

    early: float
    late: float

    @property
    def share(self) -> float:
        return self.late / self.early - 1


def run() -> Report:
    with TemporaryDirectory() as folder:
        bare = Bare(Path(folder))
        with fleet(token_budget=bare.token_budget) as rig:
            archives = {side: draw(DRAWN, side=side) for side in IMAGES}
            rig.scan(rig.put("warm", distinct(archives[448], 64, salt="warm")))
            duels = []
            for side, n in IMAGES.items():
                duels.append(duel(rig, bare, archives[side], side=side, n=n))
                print(duels[-1].line(), file=sys.stderr, flush=True)
            growth = memory(rig, archives[128])
    return _report(duels, growth)


class Bare:
    """The scorer alone: a pack at a time in each stream."""

    def __init__(self, folder: Path) -> None:
        settings = load_settings(data_dir=folder, model="pocket", log_level="error")
        model = load_model(settings)
        self._scorer: Scorer = resolve_alone(model, load_check(CHECK), None).scorer
        self.token_budget = budget_for(settings, model)
        self._free = threading.Semaphore(model.streams)
        self._threads = max(2, model.streams)  # with one stream, the next pack is prepared meanwhile

    def score(self, images: Sequence[Image.Image]) -> None:
        each = self._scorer.prepare(images[0]).visual_tokens
        waiting = iter(images)
        packs = iter(lambda: list(islice(waiting, max(1, self.token_budget // each))), [])
        with ThreadPoolExecutor(self._threads) as threads:
            for _ in threads.map(self._score, packs):
                pass

    def _score(self, pack: list[Image.Image]) -> None:
        prepared = [self._scorer.prepare(image) for image in pack]
        with self._free:
            self._scorer.score(prepared)


def distinct(files: Sequence[bytes], n: int, *, salt: str) -> list[bytes]:
    """Return n files with different bytes that decoders ignore, so that no earlier answer is reused."""
    return [files[number % len(files)] + f"{salt} {number}".encode() for number in range(n)]


def duel(rig: Fleet, bare: Bare, files: Sequence[bytes], *, side: int, n: int) -> Duel:
    """Run fleet and bare scorer in turn over the same pictures."""
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    images = [images[number % len(images)] for number in range(n)]
    bare.score(images[: n // 4])
    turns: list[tuple[Scanned, float]] = []
    cpu: list[dict[str, float]] = []
    for turn in range(REPEATS):
        prefix = f"{side}-{turn}"
        source = rig.put(prefix, distinct(files, n, salt=prefix))
        with cpu_used(rig.pids) as used:
            scanned = rig.scan(source)
        before = time.process_time()
        turns.append((scanned, n / seconds(lambda: bare.score(images))))
        cpu.append({"bare": time.process_time() - before} | used)
    return Duel(
        side=side,
        fleet=statistics.median(scanned.images_per_s for scanned, _ in turns),
        bare=statistics.median(rate for _, rate in turns),
        ratio=statistics.median(scanned.images_per_s / rate for scanned, rate in turns),
        idle=statistics.median(scanned.times.idle_share or 0.0 for scanned, _ in turns),
        cpu_ms={name: 1000 * statistics.median(used[name] for used in cpu) / n for name in cpu[0]},
    )


def memory(rig: Fleet, files: Sequence[bytes]) -> Growth:
    """Measure one worker process over one long scan of small pictures."""
    source = rig.put("long", distinct(files, LATE, salt="long"))
    with rss_watched(rig.pids["worker"], lambda: rig.n_scored(source)) as samples:
        rig.wait(rig.enqueue(source))
    return Growth(early=_rss(samples, around=EARLY), late=_rss(samples, around=LATE - EARLY // 2))


def _rss(samples: Sequence[Sample], *, around: int) -> float:
    """Return the median while `around` images, plus or minus half of EARLY, had ended."""
    near = [sample.rss for sample in samples if abs(sample.progress - around) <= EARLY // 2]
    if not near:
        raise AssertionError(f"no sample of memory near image {around}")
    return statistics.median(near)


def _report(duels: Sequence[Duel], growth: Growth) -> Report:
    headline = duels[0]
    figures = {
        "images_per_s": headline.fleet,
        "fleet_vs_bare": headline.ratio,
        "rss_growth": growth.share,
        "by_side": {str(found.side): found.figures() for found in duels},
        "cpu_ms_per_image": {str(found.side): found.cpu_ms for found in duels},
    }
    megabytes = f"{growth.early / MEBIBYTE:.0f} to {growth.late / MEBIBYTE:.0f} MiB"
    notes = (
        f"the first two are of {headline.side} px; half JPEG, half PNG; from the listing to the last verdict",
        "cpu_vs_bare: the bare scorer's processor time per image over the fleet's, without that of the S3 server",
        *(found.line() for found in duels),
        f"worker and decoders around image {EARLY} and {LATE} of 128 px: {megabytes}",
    )
    return Report(name="fleet", figures=figures, notes=notes)
