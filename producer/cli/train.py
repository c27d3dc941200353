"""`scanfleet train`: trainings: start, list, show, cancel."""

from __future__ import annotations

import click

from producer.cli.common import ScanfleetGroup


@click.group(cls=ScanfleetGroup)
def train() -> None:
    """Refresh adapters from labels: start, list, show, cancel trainings."""
