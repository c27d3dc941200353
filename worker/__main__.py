"""`python -m scanfleet.worker score`, `python -m scanfleet.worker train`: workers that run until they are stopped.

`scanfleet worker score` and `scanfleet worker train` start them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import click

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import ScanfleetError
from scanfleet.log import configure_logging, redact


@click.group()
def main() -> None:
    """Run a worker of scanfleet."""


@main.command()
@click.option("--model", help="Base model: a built-in name, a hub id, a folder or endpoint:NAME.")
@click.option("--model-revision", help="Commit of a hub model.")
@click.option("--precision", help="auto, fp32, bf16, nf4 or int8.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--devices", help="One process each: all cards, their numbers (0,1), or cpu,cpu.")
@click.option("--processes-per-device", default="1", help="With --devices: a number, or auto: as many as help.")
@click.option("--token-budget", help="Visual tokens in one forward, or auto: a probe at the start finds the number.")
@click.option("--batches-in-flight", type=int, help="Batches processed at the same time.")
@click.option("--fetch-threads", type=int, help="Threads that download and decode.")
@click.option(
    "--lease-seconds", type=float, help="After this long without a heartbeat a batch is free for other workers."
)
@click.option("--drain-seconds", type=float, help="Time to finish or hand back batches after SIGTERM.")
@click.option("--port", "metrics_port", type=int, help="Port of this process's metrics. Default: none.")
@click.option("--data-dir", help="Folder of the embedded database and broker.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-lines", default=None, help="Log one JSON object a line, or plain lines.")
def score(devices: str | None, processes_per_device: str, **flags: Any) -> None:
    """Claim batches of one base model and score them.

    With --devices this process starts a worker for each, restarts those that end with 75 or are killed, and passes
    SIGTERM on.

    Exit codes: 0 after an orderly stop; 75 if the worker must be restarted (the device broke or a call hangs); 26 if
    the hub does not know the model or refuses it; others for errors that you must fix.
    """
    if devices is None and processes_per_device != "1":
        raise click.UsageError("--processes-per-device needs --devices")
    if devices is not None and flags["device"] is not None:
        raise click.UsageError("give --device or --devices, not both")
    if devices is not None:
        from scanfleet.worker.processes.supervisor import supervise

        _serve(partial(supervise, devices=devices, per_device=processes_per_device), flags, port=False)
        return
    from scanfleet.worker.processes.score_worker import serve

    _serve(serve, flags)


@main.command()
@click.option("--model", help="Base model to train: a built-in name, a hub id or a folder.")
@click.option("--model-revision", help="Commit of a hub model.")
@click.option("--precision", help="auto, fp32, bf16, nf4 or int8.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--train-after-labels", type=int, help="Number of new labels of a check that starts a training.")
@click.option(
    "--train-every-hours", type=float, help="Train after this many hours if there is any new label. Default: never."
)
@click.option("--train-recipe", help="Recipe of trainings that the worker starts.")
@click.option(
    "--train-lease-seconds",
    type=float,
    help="After this long without a heartbeat a training is free for other workers.",
)
@click.option("--drain-seconds", type=float, help="Time to reach a checkpoint and hand back after SIGTERM.")
@click.option("--port", "metrics_port", type=int, help="Port of this process's metrics. Default: none.")
@click.option("--data-dir", help="Folder of the embedded database and broker, and of work folders.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-lines", default=None, help="Log one JSON object a line, or plain lines.")
def train(**flags: Any) -> None:
    """Train adapters of one base model from labels, one after the other, each in a process of its own.

    Exit codes: 0 after an orderly stop; 75 if the worker must be restarted; others for errors that you must fix.
    """
    from scanfleet.worker.processes.train_worker import serve_training

    _serve(serve_training, flags)


@main.command()
@click.option("--model", help="A hub id, or s3://bucket/prefix.")
@click.option("--model-revision", help="Commit of a hub model; of another the sha256:... that it must have.")
@click.option("--data-dir", help="Folder that keeps what comes from buckets.")
def fetch(**flags: Any) -> None:
    """Download a model to this node, print its folder and revision, and end."""
    from scanfleet.worker.commands.fetch import fetch_model

    _serve(fetch_model, flags, port=False)


def _serve(serve: Callable[[Settings], int], flags: dict[str, Any], *, port: bool = True) -> None:
    """port: serve this process's metrics where one is set."""
    from scanfleet.worker.processes.process_metrics import serve_process_metrics

    signal.signal(signal.SIGTERM, _end_before_consuming)
    try:
        settings = load_settings(**flags)
        configure_logging(level=settings.log_level, json=settings.log_json)
        if port:
            serve_process_metrics(settings)
        code = serve(settings)
    except ScanfleetError as error:
        click.echo(f"scanfleet: {redact(' '.join(str(error).split()))}", err=True)
        code = error.exit_code
    _leave(code)


def _end_before_consuming(_: int, __: FrameType | None) -> None:
    """Exit at once: while the model loads there is nothing to drain. Celery installs its own handler when it starts."""
    raise SystemExit(0)


def _leave(code: int) -> None:
    """Exit at once: a download that hangs would delay the interpreter's own exit until its timeout."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
