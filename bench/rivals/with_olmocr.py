"""olmOCR's work queue: groups of files in an index, a lock file a group, answers in a file a group."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
from pathlib import Path

from olmocr.work_queue import LocalBackend, WorkQueue

from bench.rivals.work import BATCH, PROCESSES, score, turns


def run(paths: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(WorkQueue(LocalBackend(folder)).populate_queue(paths, BATCH))
        workers = [multiprocessing.Process(target=serve, args=(folder,)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(len(json.loads(file.read_text())) for file in Path(folder).glob("answers_*.json"))


def serve(folder: str) -> None:
    asyncio.run(work(folder))


async def work(folder: str) -> None:
    queue = WorkQueue(LocalBackend(folder))
    await queue.initialize_queue()
    while (group := await queue.get_work()) is not None:
        answers = [score(path) for path in group.work_paths]
        (Path(folder) / f"answers_{group.hash}.json").write_text(json.dumps(answers))
        await queue.mark_done(group)


if __name__ == "__main__":
    turns(run)
