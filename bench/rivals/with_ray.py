"""Ray Data: files in blocks through a function, answers in Parquet files."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import ray

from bench.rivals.work import BATCH, PROCESSES, answer, turns


def score(batch: dict[str, Any]) -> dict[str, Any]:
    found = [answer(path, data) for path, data in zip(batch["path"], batch["bytes"], strict=True)]
    uris, hashes, margins = zip(*found, strict=True)
    return {"uri": list(uris), "sha256": list(hashes), "margin": list(margins)}


def run(paths: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        files = ray.data.read_binary_files(paths, include_paths=True)
        files.map_batches(score, batch_size=BATCH).write_parquet(folder)
        return ray.data.read_parquet(folder).count()


if __name__ == "__main__":
    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    turns(run)
