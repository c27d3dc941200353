"""`scanfleet adapters`: fine-tuned versions: compare, promote, roll back, push, pull."""

from __future__ import annotations

import click

from producer.cli.common import ScanfleetGroup


@click.group(cls=ScanfleetGroup)
def adapters() -> None:
    """Compare fine-tuned adapters, put them in use, roll back, bring their files to where workers find them."""
