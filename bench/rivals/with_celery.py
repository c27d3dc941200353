"""Celery alone: a task a batch, answers in the result backend."""

from __future__ import annotations

import os
import subprocess
import sys

from celery import Celery
from celery.result import ResultSet

from bench.rivals.work import PROCESSES, batches, score, turns

app = Celery("rivals", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)


@app.task
def score_batch(paths: list[str]) -> list[tuple[str, str, float]]:
    return [score(path) for path in paths]


def run(paths: list[str]) -> int:
    sent = ResultSet([score_batch.delay(batch) for batch in batches(paths)])
    return sum(len(found) for found in sent.get(disable_sync_subtasks=False))


if __name__ == "__main__":
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "bench.rivals.with_celery",
        "worker",
        "-P",
        "prefork",
        "-c",
        str(PROCESSES),
    ]
    worker = subprocess.Popen([*command, "-l", "ERROR"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        from bench.rivals.with_celery import run as run_named  # as the worker names the task

        turns(run_named)
    finally:
        worker.terminate()
        worker.wait()
