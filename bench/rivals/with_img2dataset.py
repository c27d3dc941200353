"""img2dataset: fetch, hash and decode, in shards; without a resize it writes the bytes as they came."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from img2dataset import download

from bench.rivals.work import PROCESSES, turns

THREADS = 8


def run(paths: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        urls = Path(folder) / "urls.txt"
        urls.write_text("\n".join(f"file://{path}" for path in paths))
        out = Path(folder) / "out"
        download(
            str(urls), output_folder=str(out), processes_count=PROCESSES, thread_count=THREADS, resize_mode="no",
            skip_reencode=True, output_format="webdataset", number_sample_per_shard=max(1, len(paths) // PROCESSES),
        )  # fmt: skip
        return sum(json.loads(file.read_text())["successes"] for file in out.glob("*_stats.json"))


if __name__ == "__main__":
    turns(run)
