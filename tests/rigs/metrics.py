"""The metrics of a ledger, read as a scrape does."""

from pathlib import Path

import sqlalchemy as sa
from prometheus_client.core import CollectorRegistry

from scanfleet.config.settings import load_settings
from scanfleet.db.schema import ledger
from scanfleet.producer.fleet.metrics import Ledger

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(engine: sa.Engine, *, minutes: float = 30.0) -> Samples:
    """(name, labels) -> value."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Ledger(engine, minutes=minutes))
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for metric in registry.collect()
        for each in metric.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """The value of the one series with this name that has these labels among its own."""
    hits = [each for (known, has), each in found.items() if known == f"scanfleet_{name}" and set(labels.items()) <= has]
    assert len(hits) == 1, (name, labels, hits)
    return hits[0]


def names_of(data_dir: Path) -> set[str]:
    """The names of all metrics that can be exported, also those that have no series here."""
    with ledger(load_settings(data_dir=data_dir)) as engine:
        families = list(Ledger(engine).collect())
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
    return {family.name + end for family in families for end in suffixes.get(family.type, ("",))}
