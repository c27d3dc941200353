"""Forecasts the throughput of all stages together from that of each stage alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanfleet.stats.stage_times import ADVICE

HOST_STAGES = ("decode", "prepare")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The throughput of a busy worker.

    limit: the slowest stage; "device" if nothing delays the device. idle_share: of the device, 0 to 1.
    """

    images_per_second: float
    limit: str
    idle_share: float


def forecast(rates: Mapping[str, float], *, shares_cores: bool) -> Forecast:
    """Forecast from rates: images/s of decode, prepare, device, and fetch if it was measured.

    Stages on the same cores take turns, so the seconds of an image add up: always for decode and prepare, and for the
    device if it is the CPU (shares_cores). All else overlaps, and the slowest stage sets the rate.
    """
    host = 1 / sum(1 / rates[stage] for stage in HOST_STAGES)
    computing = 1 / (1 / host + 1 / rates["device"]) if shares_cores else min(host, rates["device"])
    rate = min(computing, rates.get("fetch", computing))
    idle = 1 - rate / rates["device"]
    return Forecast(images_per_second=rate, limit=_limit(rates, host=host, rate=rate), idle_share=idle)


def _limit(rates: Mapping[str, float], *, host: float, rate: float) -> str:
    if rates.get("fetch") == rate:
        return "fetch"
    if rates["device"] <= host:
        return "device"
    return min(HOST_STAGES, key=lambda stage: rates[stage])


def advice(rates: Mapping[str, float], found: Forecast, *, shares_cores: bool) -> str:
    """Return one line of advice."""
    rate = f"the device takes {rates['device']:.0f} images/s"
    if found.limit != "device":
        gives = {"fetch": "fetching", "decode": "decoding", "prepare": "preparing"}[found.limit]
        return f"{gives} gives {rates[found.limit]:.0f} images/s, {rate}: {ADVICE[found.limit]}"
    if shares_cores:
        return f"{rate}, and decoding shares its cores: use a GPU, or more cores"
    return f"{rate} and is the limit: {ADVICE['device']}"
