"""`scanfleet`: the command line. Errors of scanfleet become one line on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from scanfleet.producer.cli.completion import complete, completion
from scanfleet.producer.cli.deletion.forget import forget
from scanfleet.producer.cli.fleet.checks import checks
from scanfleet.producer.cli.fleet.db import db
from scanfleet.producer.cli.fleet.doctor import doctor
from scanfleet.producer.cli.fleet.fleet import fleet
from scanfleet.producer.cli.fleet.metrics import metrics
from scanfleet.producer.cli.fleet.serve import serve
from scanfleet.producer.cli.fleet.token import token
from scanfleet.producer.cli.fleet.watching import drain, top
from scanfleet.producer.cli.fleet.worker import worker
from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note
from scanfleet.producer.cli.queries.compare import compare
from scanfleet.producer.cli.queries.facets import facets
from scanfleet.producer.cli.queries.history import history
from scanfleet.producer.cli.queries.sets import sets
from scanfleet.producer.cli.queries.sql import sql
from scanfleet.producer.cli.scans.agreement import agreement
from scanfleet.producer.cli.scans.rescan import rescan
from scanfleet.producer.cli.scans.results import results
from scanfleet.producer.cli.scans.results_export import export
from scanfleet.producer.cli.scans.run import run
from scanfleet.producer.cli.scans.scan import scan
from scanfleet.producer.cli.scans.scans import scans
from scanfleet.producer.cli.scans.score import score
from scanfleet.producer.cli.training.adapters import adapters
from scanfleet.producer.cli.training.drift import drift
from scanfleet.producer.cli.training.experiment import experiment
from scanfleet.producer.cli.training.labels import labels
from scanfleet.producer.cli.training.suggest import suggest
from scanfleet.producer.cli.training.train import train
from scanfleet.producer.cli.training.tune import tune

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE
NOT_WRITTEN = 2  # the same code as for any file that cannot be written


@click.group(cls=ScanfleetGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder for the embedded database and broker, and for logs."
)
@click.option(
    "--database-url", help="sqlite:///FILE or postgresql://USER@HOST/NAME. Default: SQLite in the data folder."
)
@click.option("--broker-url", help="redis://HOST:PORT/N. Default: files in the data folder.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Lowest level to log.")
@click.version_option(package_name="scanfleet", message="scanfleet %(version)s")
@click.pass_context
def cli(
    context: click.Context,
    data_dir: Path | None,
    database_url: str | None,
    broker_url: str | None,
    log_level: str | None,
) -> None:
    """Score archives of images with a vision-language model, on this machine or on a fleet.

    \b
    Example:
      scanfleet run photos/ --check overlay
      scanfleet results ls --decision flag

    Each option below is also a setting: SCANFLEET_DATABASE_URL in the environment, or database_url in scanfleet.toml.
    Data goes to stdout, progress and messages to stderr.

    \b
    Exit codes: 0 done; 1 unexpected; 2 wrong usage; 10 bad setting; 11 bad check;
    12 bad manifest; 13 bad source; 14 source not found; 15 access denied;
    16 no image in the source; 17 unknown name; 18 database schema outdated;
    19 optional part not installed; 20 images failed (score, or with --strict);
    21 a local worker died; 22 bad labels; 23 the gate did not pass;
    24 a training failed; 25 drift (drift --alarm); 26 no such model on the hub;
    27 bad SQL (results sql); 28 rows point to rows that are gone (db check);
    29 bad experiment;
    75 database, broker or store unavailable: try again; 130 interrupted.
    """
    context.obj = Flags(data_dir=data_dir, database_url=database_url, broker_url=broker_url, log_level=log_level)


COMMANDS = (
    *(
        run,
        scan,
        scans,
        rescan,
        results,
        forget,
        score,
        labels,
        train,
        adapters,
        tune,
        experiment,
        drift,
        checks,
        worker,
        serve,
        token,
        fleet,
        metrics,
        db,
        doctor,
    ),
    completion,
)
for command in COMMANDS:
    cli.add_command(command)
labels.add_command(suggest)
scans.add_command(agreement)
for view in (drain, top):
    worker.add_command(view)
for question in (export, history, facets, compare, sets, sql):
    results.add_command(question)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. arguments: by default those of the process."""
    completed = complete(cli)
    if completed is not None:
        return completed
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        # `scanfleet results ls | head`: the reader left. Python would raise again when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        from scanfleet.producer.reports.output import DISK_ERRORS

        if error.errno not in DISK_ERRORS:
            raise
        note(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest
        return NOT_WRITTEN


def _run(arguments: list[str]) -> int:
    from scanfleet.errors import ScanfleetError
    from scanfleet.log import redact

    try:
        # cli.main() would turn a closed pipe into exit code 1.
        with cli.make_context("scanfleet", arguments) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.NoSuchOption as error:
        if error.option_name in [name for option in cli.params for name in option.opts]:
            words = f"{error.option_name} goes before the command: scanfleet {error.option_name} ... COMMAND"
            error = click.NoSuchOption(error.option_name, message=words, ctx=error.ctx)
        error.show()
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        note("interrupted")
        return INTERRUPTED
    except ScanfleetError as error:
        note(redact(" ".join(str(error).split())))
        return error.exit_code
    return 0


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    """Turn SIGTERM into an exception, so that local workers are stopped on the way out."""
    raise SystemExit(TERMINATED)
