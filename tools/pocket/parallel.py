"""Two single-threaded processes instead of one with two threads.

On a shared machine a thread that waits at an OpenMP barrier for a preempted sibling burns its core; processes that meet
once a step, in an all-reduce, do not.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


def _entry(rank: int, work: Callable[..., None], processes: int, port: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes, timeout=timedelta(minutes=20)
    )
    try:
        work(rank, *arguments)
    finally:
        dist.destroy_process_group()


def run(work: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call `work(rank, *arguments)` in every process and wait; an error in one ends all."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_entry, (work, processes, port, arguments), nprocs=processes)  # type: ignore[no-untyped-call]


def average_gradients(params: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes."""
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, mean in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        g.copy_(mean.view_as(g))
