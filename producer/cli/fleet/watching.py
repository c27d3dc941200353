"""`scanfleet worker top`, `scanfleet worker drain`: a live view of the fleet, and workers that end when done."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.tables import Cell, echo_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.scans.workers import WorkerInfo
    from scanfleet.stats.stage_times import StageTimes

Reading = dict[str, "tuple[WorkerInfo, StageTimes]"]
CLEAR = "\x1b[2J\x1b[H"


@click.command()
@click.argument("workers", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All live workers.")
@click.option("--model", metavar="MODEL", help="All live workers of this model.")
@click.pass_obj
def drain(flags: Flags, workers: tuple[str, ...], every: bool, model: str | None) -> None:
    """Ask workers to finish their batches and end, as after a SIGTERM.

    Each reads that in the ledger with its heartbeat, within seconds, wherever it runs. A supervisor (compose,
    Kubernetes) starts an ended worker again: scale it down first to make fewer of them.

    \b
    Example:
      scanfleet worker drain gpu-7-4211-a1b2c3
      scanfleet worker drain --model pocket
    """
    from scanfleet.db.engine import reading, transaction
    from scanfleet.db.scans.workers import ask_to_drain, live_workers
    from scanfleet.errors import UnknownName
    from scanfleet.messages import score_queue
    from scanfleet.producer.scans.session import SILENT_SECONDS

    if sum((bool(workers), every, model is not None)) != 1:
        raise click.UsageError("name workers, or give --all or --model")
    with flags.ledger() as engine:
        if not workers:
            with reading(engine) as connection:
                live = live_workers(connection, silent_seconds=SILENT_SECONDS)
            queue = None if model is None else score_queue(model)
            workers = tuple(each.id for each in live if queue in (None, each.queue))
        with transaction(engine) as connection:
            asked = ask_to_drain(connection, workers)
            if missing := sorted(set(workers) - set(asked)):
                raise UnknownName(f"no worker {missing[0]!r} is running: `scanfleet worker ls` lists them")
    for name in asked:
        click.echo(name)
    note(f"{len(asked)} workers end when their batches are done")


@click.command()
@click.option("--every", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="Seconds of a view.")
@click.option("--once", is_flag=True, help="Print one view, and end.")
@click.pass_obj
def top(flags: Flags, every: float, once: bool) -> None:
    """Show live workers again and again, and what each waits for.

    Images/s and idle share are those since the last view, between two reports of a worker, which come every few
    seconds. Ctrl-C ends it.

    \b
    Example:
      scanfleet worker top
      scanfleet worker top --once
    """
    with flags.ledger(only_reads=True) as engine:
        before = _read(engine)
        while True:
            time.sleep(every)
            found = _read(engine)
            if sys.stdout.isatty() and not once:
                click.echo(CLEAR, nl=False)
            echo_table(
                ("worker", "device", "images/s", "idle", "bottleneck", "waits for"),
                [_row(before.get(name), now) for name, now in found.items()],
                below=("waits for",),
            )
            if once:
                return
            # A worker that has not reported since keeps its earlier reading: the next rate covers both.
            before = {name: _older(before.get(name), now) for name, now in found.items()}


def _read(engine: sa.Engine) -> Reading:
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.workers import live_workers
    from scanfleet.producer.scans.session import SILENT_SECONDS
    from scanfleet.stats.stage_times import StageTimes

    with reading(engine) as connection:
        live = live_workers(connection, silent_seconds=SILENT_SECONDS)
    return {each.id: (each, StageTimes(sums=each.seconds or {})) for each in live}


def _older(
    before: tuple[WorkerInfo, StageTimes] | None, now: tuple[WorkerInfo, StageTimes]
) -> tuple[WorkerInfo, StageTimes]:
    return before if before is not None and before[0].beat_at == now[0].beat_at else now


def _row(before: tuple[WorkerInfo, StageTimes] | None, now: tuple[WorkerInfo, StageTimes]) -> tuple[Cell, ...]:
    each, times = now
    since: datetime = each.started_at if before is None else before[0].beat_at
    passed = (each.beat_at - since).total_seconds()
    between = times if before is None else times.since(before[1])
    rate = "-" if passed <= 0 else f"{between['scored'] / passed:.1f}"
    idle = "-" if between.idle_share is None else f"{between.idle_share:.0%}"
    return each.id, each.device, rate, idle, between.bottleneck or "-", _waits_for(each, between)


def _waits_for(each: WorkerInfo, between: StageTimes) -> str:
    if each.waiting_for:
        return each.waiting_for
    if each.drain_at is not None:
        return "its last batches: it drains"
    return "-" if between["under_way"] > 0 else "batches"
