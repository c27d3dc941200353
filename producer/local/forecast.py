"""From what each stage manages by itself to what they will manage together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanfleet.stats.stage_times import ADVICE

HOST_STAGES = ("decode", "prepare")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of a worker that has enough to do.

    limit: a stage; "device" where nothing holds the device up. idle_share: of the device, 0 ... 1.
    """

    images_per_second: float
    limit: str
    idle_share: float


def forecast(rates: Mapping[str, float], *, shares_cores: bool) -> Forecast:
    """rates: images/s of decode, prepare, device, and fetch where it was measured.

    Stages of the same cores take turns, so that the seconds of an image add up: decode and prepare always do, the
    device does where it is the CPU (shares_cores). All else overlaps, and the slowest sets the pace.
    """
    host = 1 / sum(1 / rates[stage] for stage in HOST_STAGES)
    computing = 1 / (1 / host + 1 / rates["device"]) if shares_cores else min(host, rates["device"])
    pace = min(computing, rates.get("fetch", computing))
    idle = 1 - pace / rates["device"]
    return Forecast(images_per_second=pace, limit=_limit(rates, host=host, pace=pace), idle_share=idle)


def _limit(rates: Mapping[str, float], *, host: float, pace: float) -> str:
    if rates.get("fetch") == pace:
        return "fetch"
    if rates["device"] <= host:
        return "device"
    return min(HOST_STAGES, key=lambda stage: rates[stage])


def advice(rates: Mapping[str, float], found: Forecast, *, shares_cores: bool) -> str:
    """What would help, in one line."""
    pace = f"the device takes {rates['device']:.0f} images/s"
    if found.limit != "device":
        gives = {"fetch": "fetching", "decode": "decoding", "prepare": "preparing"}[found.limit]
        return f"{gives} gives {rates[found.limit]:.0f} images/s, {pace}: {ADVICE[found.limit]}"
    if shares_cores:
        return f"{pace}, and decoding shares its cores: use a GPU, or more cores"
    return f"{pace} and is the limit: {ADVICE['device']}"
