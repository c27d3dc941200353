"""`scanfleet labels`: what people say is true of images."""

from __future__ import annotations

import click

from producer.cli.common import ScanfleetGroup


@click.group(cls=ScanfleetGroup)
def labels() -> None:
    """Say what is true of images, import what was said elsewhere, and choose what to label next."""
