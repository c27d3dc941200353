"""`scanfleet worker`: replaces this process by a worker. Imports nothing of the worker half."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note
from scanfleet.producer.cli.tables import Cell, echo_table

if TYPE_CHECKING:
    from scanfleet.db.scans.workers import WorkerInfo
    from scanfleet.db.training.trainings import TrainingInfo
    from scanfleet.stats.stage_times import StageTimes

ENDED_SECONDS = 24 * 3600.0  # for how long a worker that ended itself is named


@click.group(cls=ScanfleetGroup)
def worker() -> None:
    """Start workers on this machine, and list live ones anywhere.

    \b
    Example:
      scanfleet worker score
      scanfleet worker train
    """


@worker.command("ls")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_workers(flags: Flags, form: str) -> None:
    """List workers seen recently, with the bottleneck of each.

    Notes say what a worker waits for that cannot start yet, and why one that nobody replaced has ended itself.

    \b
    Example:
      scanfleet worker ls
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.scans.workers import ended_workers, live_workers
    from scanfleet.db.training.trainings import under_way
    from scanfleet.producer.scans.session import SILENT_SECONDS
    from scanfleet.producer.training.refusals import refusal_text, refused_champions
    from scanfleet.stats.stage_times import StageTimes

    with flags.ledger() as engine, reading(engine) as connection:
        ended = ended_workers(connection, silent_seconds=SILENT_SECONDS, within_seconds=ENDED_SECONDS)
        found = [
            (each, StageTimes(sums=each.seconds or {}))
            for each in live_workers(connection, silent_seconds=SILENT_SECONDS)
        ]
        at = under_way(connection)
        refused = refused_champions(connection)
    for refusal in refused:
        note(refusal_text(refusal))
    for each, _ in found:
        if each.waiting_for:
            note(f"worker {each.id} cannot start yet: {each.waiting_for}")
    for worker_id, reason in ended.items():
        note(f"worker {worker_id} has ended, and none took its place: {reason}")
    if form == "json":
        click.echo(json.dumps([_record(each, times, at.get(each.id)) for each, times in found], indent=2))
        return
    rows = [_row((each, times), at.get(each.id)) for each, times in found]
    header = ("worker", "queue", "device", "since", "images", "images/s", "idle", "bottleneck")
    echo_table(header, rows, below=("queue", "since"))
    if not found:
        note(f"no live worker in the last {SILENT_SECONDS:.0f} s: start one with `scanfleet worker score`")


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def score(flags: Flags, arguments: tuple[str, ...]) -> None:
    """Score batches until stopped. Needs the extra `worker` (docs/install.md).

    SIGTERM stops it cleanly; nothing is lost if it is killed.

    \b
    Options of the worker:
      --model MODEL               hub id, folder, s3://…, endpoint:NAME, pocket
      --model-revision COMMIT     commit of a hub model
      --precision NAME            auto, fp32, bf16, nf4 or int8
      --device NAME               auto, cpu, cuda or cuda:N
      --devices LIST              one process each: all, 0,1 or cpu,cpu
      --processes-per-device N    with --devices: a number, or auto
      --token-budget N            visual tokens in one forward, or auto
      --batches-in-flight N       batches held at the same time
      --fetch-threads N           downloads and decodings at the same time
      --lease-seconds SECONDS     a silent worker loses its batches after this
      --drain-seconds SECONDS     finish or hand back within this after SIGTERM
      --port PORT                 serve metrics of this process (extra metrics)
      --data-dir, --log-level     as before the command
      --log-json / --log-lines    one JSON object per line, or text

    \b
    Example:
      scanfleet worker score --model Qwen/Qwen3-VL-4B-Instruct --precision nf4
      SCANFLEET_BROKER_URL=redis://queue/0 scanfleet worker score
    """
    from scanfleet.producer.local.workers import COMMAND

    _become(COMMAND, arguments, flags)


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def train(flags: Flags, arguments: tuple[str, ...]) -> None:
    """Train adapters until stopped. Needs the extra `worker` (docs/install.md).

    It trains adapters of one base model, for one check at a time: when there are enough new labels, on a schedule, on a
    drift alarm, or when `scanfleet train start` asks for it. SIGTERM stops it cleanly. If it is killed, another worker
    resumes the training.

    \b
    Options of the worker:
      --model MODEL                  built-in name, hub id or folder
      --model-revision COMMIT        commit of a hub model
      --precision NAME               auto, fp32, bf16, nf4 or int8
      --device NAME                  auto, cpu, cuda or cuda:N
      --train-after-labels N         new labels of a check that start a training
      --train-every-hours HOURS      also train on this schedule; default: never
      --train-recipe NAME            recipe of the trainings started like this
      --train-lease-seconds SECONDS  a silent worker loses its training then
      --drain-seconds SECONDS        save and hand back within this after SIGTERM
      --port PORT                    serve metrics of this process
      --data-dir, --log-level        as before the command
      --log-json / --log-lines       one JSON object per line, or text

    \b
    Example:
      scanfleet worker train --model Qwen/Qwen3-VL-4B-Instruct
    """
    from scanfleet.producer.local.workers import COMMAND

    _become((*COMMAND[:-1], "train"), arguments, flags)


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def fetch(flags: Flags, arguments: tuple[str, ...]) -> None:
    """Download a model to this node, and end: for an init container.

    Workers of this node then load it from the disk: what comes from the hub lies in its cache (HF_HOME), what comes
    from a bucket in the data folder. Prints the folder, and the revision that --model-revision may pin.

    \b
    Options:
      --model MODEL               hub id, or s3://bucket/prefix
      --model-revision REVISION   that it must have
      --data-dir                  as before the command

    \b
    Example:
      scanfleet worker fetch --model s3://models/qwen3-vl-4b
    """
    from scanfleet.producer.local.workers import COMMAND

    _become((*COMMAND[:-1], "fetch"), arguments, flags)


def _become(command: tuple[str, ...], arguments: tuple[str, ...], flags: Flags) -> None:
    from scanfleet.child_process import environment
    from scanfleet.producer.local.workers import require_worker_extra

    require_worker_extra()
    # The worker replaces this process, so that signals, exit code and process id are its own.
    os.execve(command[0], [*command, *arguments], environment(flags.settings()))  # noqa: S606


def _row(found: tuple[WorkerInfo, StageTimes], training: TrainingInfo | None) -> tuple[Cell, ...]:
    from scanfleet.messages import TRAIN_QUEUE

    each, times = found
    if each.queue == TRAIN_QUEUE:
        at = "-" if training is None else f"training {training.id} ({training.stage or 'starting'})"
        return (each.id, each.queue, each.device, f"{each.started_at:%Y-%m-%d %H:%M}", None, "-", "-", at)
    rate = "-" if times.images_per_second is None else f"{times.images_per_second:.1f}"
    idle = "-" if times.idle_share is None else f"{times.idle_share:.0%}"
    since = f"{each.started_at:%Y-%m-%d %H:%M}"
    return (each.id, each.queue, each.device, since, each.n_images, rate, idle, times.bottleneck or "-")


def _record(each: WorkerInfo, times: StageTimes, training: TrainingInfo | None) -> dict[str, Any]:
    """Return a worker as plain JSON; its times count from its start."""
    return {
        "worker": each.id,
        "host": each.host,
        "pid": each.pid,
        "queue": each.queue,
        "device": each.device,
        "started_at": each.started_at.isoformat(),
        "beat_at": each.beat_at.isoformat(),
        "images": each.n_images,
        "waiting_for": each.waiting_for,
        "times": times.record(),
        "training": None if training is None else training.id,
    }
