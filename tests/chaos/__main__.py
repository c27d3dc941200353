"""`python -m tests.chaos`: see the package."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click

from scanfleet.log import configure_logging
from tests.chaos.options import CONTROLS, KINDS, Options
from tests.chaos.possible import possible
from tests.services import ServiceMissingError

EX_UNAVAILABLE = 69  # sysexits.h: a server program is not installed here


@click.command()
@click.option("--faults", default=200, show_default=True, help="How many faults to inject.")
@click.option("--seed", type=int, help="Of archive and faults; drawn, and printed, when not given.")
@click.option("--images", default=20_000, show_default=True, help="Images in the bucket.")
@click.option("--workers", default=4, show_default=True, help="Worker processes.")
@click.option("--pooled", type=int, help="Workers behind pgbouncer; default: half of them, where it is installed.")
@click.option("--poison", type=int, help="Images that kill their process; default: one in 2,500.")
@click.option("--kinds", help=f"Only these, with commas: {', '.join(KINDS)}. Default: all.")
@click.option("--without", type=click.Choice(CONTROLS), help="Negative control: take this protection out.")
@click.option("--seconds-per-image", default=0.002, show_default=True, help="Of the fake scorer.")
@click.option("--patience", default=150.0, show_default=True, help="Seconds without progress until giving up.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the workers' logs in this folder.")
@click.option("--json", "as_line", is_flag=True, help="One line of JSON on stdout; the table goes to stderr.")
def main(
    faults: int,
    seed: int | None,
    images: int,
    workers: int,
    pooled: int | None,
    poison: int | None,
    kinds: str | None,
    without: str | None,
    seconds_per_image: float,
    patience: float,
    logs: Path | None,
    as_line: bool,
) -> None:
    """A real fleet under faults at random moments, then a count of every image. Exit code 0: everything holds."""
    chosen = tuple(kinds.split(",")) if kinds else tuple(KINDS)
    unknown = set(chosen) - set(KINDS)
    if unknown:
        raise click.UsageError(f"unknown kinds of faults: {', '.join(sorted(unknown))}")
    options = Options(
        faults=faults,
        seed=secrets.randbelow(10**6) if seed is None else seed,
        images=images,
        workers=workers,
        pooled=pooled,
        poison=poison,
        kinds=chosen,
        without=without,
        seconds_per_image=seconds_per_image,
        patience_seconds=patience,
        logs=logs,
    )
    configure_logging(level="error", json=False)

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        options = possible(options, say)
        from tests.chaos.report import as_json, as_table  # NumPy's threads begin here
        from tests.chaos.run import run

        result = run(options, say=say)
    except ServiceMissingError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EX_UNAVAILABLE)
    click.echo(as_table(result), err=as_line)
    if as_line:
        click.echo(as_json(result))
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()
