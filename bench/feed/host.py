"""What an image costs the processors of a host: worker, decoders and PostgreSQL, from S3 and from a folder.

One real worker process whose forward sleeps (`bench.feed.sleeping`), with real Redis, PostgreSQL and SeaweedFS. It is
processor time, not time on the clock, so it depends little on what else the machine does.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.decode import jpeg
from bench.fleet.meter import cpu_used
from bench.fleet.rig import Fleet, fleet
from bench.report import REPEATS

SIDE = 448  # pixels
N_IMAGES = 1024  # a turn
DRAWN = 16  # different pictures
TOKEN_BUDGET = 8192
COMMAND = ("-m", "bench.feed.sleeping", "score")


@dataclass(frozen=True, kw_only=True)
class HostCost:
    """Milliseconds of processor time for one image, medians of several turns. host: worker and decoders."""

    worker: float
    decoders: float
    postgres: float

    @property
    def host(self) -> float:
        return self.worker + self.decoders

    def line(self, source: str) -> str:
        costs = f"worker {self.worker:.2f}, decoders {self.decoders:.2f}, PostgreSQL {self.postgres:.2f}"
        return f"{source}: {costs} ms an image"


def measure(*, repeats: int = REPEATS, n_images: int = N_IMAGES) -> dict[str, HostCost]:
    """Return the cost by kind of source: s3, folder. The two take turns."""
    pictures = [jpeg(SIDE, SIDE, quality=88) for _ in range(DRAWN)]
    turns: dict[str, list[HostCost]] = {"s3": [], "folder": []}
    with (
        TemporaryDirectory() as folder,
        fleet(token_budget=TOKEN_BUDGET, model="fake", command=COMMAND) as rig,
    ):
        _once(rig, rig.put("warm", _distinct(pictures, n_images // 4, salt="warm")), n_images // 4)
        for turn in range(repeats):
            for kind, costs in turns.items():
                name = f"{kind}-{turn}"
                files = _distinct(pictures, n_images, salt=name)
                source = rig.put(name, files) if kind == "s3" else _write(Path(folder) / name, files)
                costs.append(_once(rig, source, n_images))
                print(costs[-1].line(kind), file=sys.stderr, flush=True)
    return {kind: _median(costs) for kind, costs in turns.items()}


def _once(rig: Fleet, source: str, n_images: int) -> HostCost:
    with cpu_used(rig.pids) as used:
        rig.scan(source)
    each = {name: 1000 * seconds / n_images for name, seconds in used.items()}
    return HostCost(
        worker=each["worker"],
        decoders=each["worker children"],
        postgres=each["postgres"] + each["postgres children"],
    )


def _median(costs: Sequence[HostCost]) -> HostCost:
    return HostCost(
        worker=statistics.median(cost.worker for cost in costs),
        decoders=statistics.median(cost.decoders for cost in costs),
        postgres=statistics.median(cost.postgres for cost in costs),
    )


def _distinct(pictures: Sequence[bytes], n: int, *, salt: str) -> list[bytes]:
    """Return n files with different bytes that decoders ignore, so that no earlier answer is reused."""
    return [pictures[number % len(pictures)] + f"{salt} {number}".encode() for number in range(n)]


def _write(folder: Path, files: Sequence[bytes]) -> str:
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number:07}.jpg").write_bytes(data)
    return str(folder)
