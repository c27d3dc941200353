"""`scanfleet worker`: becomes the worker process. Nothing of the worker is imported here."""

from __future__ import annotations

import os

import click

from producer.cli.common import Flags, ScanfleetGroup


@click.group(cls=ScanfleetGroup)
def worker() -> None:
    """Start workers on this machine. Needs the extra: pip install 'scanfleet[worker]'.

    \b
    Example:
      scanfleet worker score
    """


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def score(flags: Flags, arguments: tuple[str, ...]) -> None:
    """Score batches until stopped. SIGTERM ends it in order; nothing is lost either way.

    Further arguments go to the worker: --model, --precision, --device, --batches-in-flight and the others that
    `python -m worker score --help` lists.

    \b
    Example:
      scanfleet worker score --model Qwen/Qwen3-VL-4B-Instruct --precision nf4
      SCANFLEET_BROKER_URL=redis://queue/0 scanfleet worker score
    """
    from producer.workers import COMMAND, require_worker_extra, worker_environment

    require_worker_extra()
    # This very process becomes the worker: signals, exit code and process id are the worker's own.
    os.execve(COMMAND[0], [*COMMAND, *arguments], worker_environment(flags.settings()))  # noqa: S606
