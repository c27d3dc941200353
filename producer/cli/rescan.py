"""`scanfleet rescan`."""

from __future__ import annotations

import click


@click.command()
def rescan() -> None:
    """Score again what a new champion may see otherwise; old verdicts are kept."""
