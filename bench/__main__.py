"""`python -m bench NAME [--json]`: a table for people, and with --json one last line of JSON."""

from __future__ import annotations

import importlib

import click

NAMES = ("decode", "prefill", "fleet", "ledger", "precision", "refresh", "learning-curve", "crops")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON per benchmark.")
def main(names: tuple[str, ...], as_json: bool) -> None:
    """Measure NAMES, or everything.

    Example: python -m bench ledger --json
    """
    for name in names or NAMES:
        importlib.import_module(f"bench.{name.replace('-', '_')}").run().show(as_json=as_json)


main()
