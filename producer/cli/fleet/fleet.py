"""`scanfleet fleet`: how many workers are wanted."""

from __future__ import annotations

import json

import click

from scanfleet.producer.cli.options import Flags, ScanfleetGroup, note


@click.group(cls=ScanfleetGroup)
def fleet() -> None:
    """Say how many workers the open scans want.

    \b
    Example:
      scanfleet fleet wanted --model pocket --minutes 30
    """


@fleet.command()
@click.option("--model", metavar="MODEL", help="Default: the setting.")
@click.option(
    "--minutes", type=click.FloatRange(min=1), default=30.0, show_default=True, help="To finish what is open."
)
@click.option("--most", type=click.IntRange(min=0), metavar="N", help="At most this many.")
@click.option("--format", "form", type=click.Choice(["number", "json"]), default="number", show_default=True)
@click.pass_obj
def wanted(flags: Flags, model: str | None, minutes: float, most: int | None, form: str) -> None:
    """Print how many workers finish what is open in time.

    0 where nothing is pending or leased. It is images / (rate of one worker x time), with the rate that this model's
    workers measured last; where the rate comes from goes to stderr. Without one, one worker is wanted to measure it.
    Paused scans want none.

    \b
    Example:
      scanfleet fleet wanted --model pocket --minutes 30
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.fleet.open_scans import images_left
    from scanfleet.db.fleet.rates import last_rate
    from scanfleet.db.fleet.rates import wanted as workers_wanted

    settings = flags.settings(model=model)
    with flags.ledger(only_reads=True) as engine, reading(engine) as connection:
        n_images = images_left(connection).get(settings.model, 0)
        rate = last_rate(connection, settings.model)
    n = workers_wanted(n_images, rate, minutes=minutes)
    n = n if most is None else min(n, most)
    if form == "json":
        record = {
            "model": settings.model,
            "minutes": minutes,
            "wanted": n,
            "images": n_images,
            "images_per_second": None if rate is None else round(rate.images_per_second, 3),
            "source": None if rate is None else rate.source,
            "load_seconds": None if rate is None else rate.load_seconds,
        }
        click.echo(json.dumps(record, indent=2))
        return
    click.echo(n)
    if rate is None:
        note(f"{n_images} images of {settings.model}; no worker has measured its rate yet")
    else:
        note(f"{n_images} images of {settings.model} at {rate.images_per_second:.1f}/s a worker, {rate.source}")
