"""Limits and money of a scan, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from scanfleet.producer.cli.options import FunctionT, note

if TYPE_CHECKING:
    from scanfleet.config.settings import Settings
    from scanfleet.db.fleet.rates import Rate

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def limit_options(command: FunctionT) -> FunctionT:
    """--max-images, --max-bytes, --max-cost."""
    words = "Pause the scan once this {} (docs/operate.md)."
    for option in (
        click.option("--max-cost", type=click.FloatRange(min=0, min_open=True), help=words.format("much is spent")),
        click.option("--max-bytes", metavar="N|20G", help=words.format("much of it is answered")),
        click.option("--max-images", type=click.IntRange(min=1), metavar="N", help=words.format("many are answered")),
    ):
        command = option(command)
    return command


def take_limits(chosen: dict[str, Any], settings: Settings) -> dict[str, float]:
    """Take the options of `limit_options` out of `chosen`. Raises RequestError, and BadSettings without a price."""
    from scanfleet.errors import BadSettings

    given = {name: chosen.pop(name) for name in ("max_images", "max_bytes", "max_cost")}
    if given["max_bytes"] is not None:
        given["max_bytes"] = _bytes(given["max_bytes"])
    limits = {name: float(value) for name, value in given.items() if value is not None}
    if "max_cost" in limits:
        if not settings.price_per_hour:
            raise BadSettings("--max-cost needs the setting price_per_hour, of one device with its host")
        limits["price_per_hour"] = settings.price_per_hour
    return limits


def _bytes(text: str) -> float:
    from scanfleet.errors import RequestError

    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        value = float(number) * SIZES[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise RequestError(f"--max-bytes {text}: write a number of bytes, or 500M, 20G, 1.5T")
    return value


def echo_forecast(rate: Rate | None, n_images: int, settings: Settings) -> None:
    """Print device hours and money of these images, and which measurement that rests on."""
    if rate is None:
        click.echo(f"device hours    unknown: no worker of {settings.model} has scored a batch of 64 images yet")
        return
    hours = n_images / rate.images_per_second / 3600
    click.echo(f"device hours    {hours:.3g}")
    if settings.price_per_hour is None:
        note("for the money set price_per_hour, of one device with its host")
    else:
        click.echo(f"money           {hours * settings.price_per_hour:.2f}")
    load = "" if rate.load_seconds is None else f"; each worker loads for {rate.load_seconds:.0f} s first"
    note(f"by {rate.images_per_second:.1f} images/s a worker, {rate.source}{load}")


def money(engine: sa.Engine, scan_id: str, settings: Settings) -> dict[str, Any]:
    """Return what the scan has cost so far, and what pauses it, for JSON."""
    from scanfleet.db.engine import reading
    from scanfleet.db.fleet.limits import cost, limits_of, worker_seconds

    with reading(engine) as connection:
        limits = limits_of(connection, scan_id)
        seconds = worker_seconds(connection, scan_id)
    price = limits.get("price_per_hour", settings.price_per_hour)
    return {"cost": None if price is None else round(cost(seconds, price), 4), "limits": limits or None}


def echo_money(found: Mapping[str, Any]) -> None:
    if found["cost"] is not None:
        click.echo(f"cost so far {found['cost']:.2f}")
    for name, value in (found["limits"] or {}).items():
        if name not in ("reached", "price_per_hour"):
            click.echo(f"{name.replace('_', ' ')} {value:g}")
    if found["limits"] and "reached" in found["limits"]:
        note(f"paused by {found['limits']['reached']}: run `scanfleet scan` with a higher one to resume it")
