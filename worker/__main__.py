"""`python -m worker score`, `python -m worker train`: workers that go on until they are stopped.

`scanfleet worker score` and `scanfleet worker train` start them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import ScanfleetError
from scanfleet.log import configure_logging, redact


@click.group()
def main() -> None:
    """The side of scanfleet that computes."""


@main.command()
@click.option("--model", help="Base model: a built-in name, a hub id, a folder or endpoint:NAME.")
@click.option("--model-revision", help="Commit of a hub model.")
@click.option("--precision", help="auto, fp32, bf16, nf4 or int8.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--token-budget", help="Visual tokens in one forward, or auto: found by a probe at the start.")
@click.option("--batches-in-flight", type=int, help="Batches held at once.")
@click.option("--fetch-threads", type=int, help="Downloads and decodings at once.")
@click.option("--lease-seconds", type=float, help="A silent worker's batch is free after this.")
@click.option("--drain-seconds", type=float, help="SIGTERM: finish or hand back within this.")
@click.option("--data-dir", help="Folder of the embedded ledger and broker.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-lines", default=None, help="One JSON object a line, or lines for people.")
def score(**flags: Any) -> None:
    """Take batches of one base model and score them.

    Exit codes: 0 stopped in order; 75 start me again (the device broke); others name what a person must change.
    """
    from worker.processes.score_worker import serve

    _serve(serve, flags)


@main.command()
@click.option("--model", help="Base model that is trained: a built-in name, a hub id or a folder.")
@click.option("--model-revision", help="Commit of a hub model.")
@click.option("--precision", help="auto, fp32, bf16, nf4 or int8.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--train-after-labels", type=int, help="So many new labels of a check start a training.")
@click.option("--train-every-hours", type=float, help="A schedule: with any new label at all. Default: never.")
@click.option("--train-recipe", help="Recipe of trainings that start by themselves.")
@click.option("--train-lease-seconds", type=float, help="A silent worker's training is free after this.")
@click.option("--drain-seconds", type=float, help="SIGTERM: reach a checkpoint and hand back within this.")
@click.option("--data-dir", help="Folder of the embedded ledger and broker, and of work folders.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-lines", default=None, help="One JSON object a line, or lines for people.")
def train(**flags: Any) -> None:
    """Make adapters of one base model from labels, one after the other, each in a process of its own.

    Exit codes: 0 stopped in order; 75 start me again; others name what a person must change.
    """
    from worker.processes.train_worker import serve_training

    _serve(serve_training, flags)


def _serve(serve: Callable[[Settings], int], flags: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, _end_before_consuming)
    try:
        settings = load_settings(**flags)
        configure_logging(level=settings.log_level, json=settings.log_json)
        code = serve(settings)
    except ScanfleetError as error:
        click.echo(f"scanfleet: {redact(' '.join(str(error).split()))}", err=True)
        code = error.exit_code
    _leave(code)


def _end_before_consuming(_: int, __: FrameType | None) -> None:
    """While the model loads there is nothing to drain. Celery puts its own handler in place when it starts."""
    raise SystemExit(0)


def _leave(code: int) -> None:
    """End now: a download that hangs would hold up the interpreter's own exit until its time-out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
