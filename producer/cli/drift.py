"""`scanfleet drift`."""

from __future__ import annotations

import click


@click.command()
def drift() -> None:
    """Show whether scores, labels and people's corrections still look as they did."""
