"""`python -m bench NAME [--json]`: print a table, and with --json one last line of JSON."""

from __future__ import annotations

import importlib

import click

MODULES = {
    "decode": "bench.decode",
    "prefill": "bench.prefill",
    "fleet": "bench.fleet",
    "ledger": "bench.ledger",
    "precision": "bench.precision",
    "refresh": "bench.training.refresh",
    "learning-curve": "bench.training.learning_curve",
    "alora": "bench.training.activated",
    "crops": "bench.crops",
    "frames": "bench.frames",
    "menu-order": "bench.asking.menu_order",
    "gate": "bench.judging.gate",
    "questions": "bench.asking.questions",
    "certificates": "bench.judging.certificates",
    "drift": "bench.judging.drift",
    "calibration": "bench.judging.calibration",
    "photographs": "bench.training.photographs",
    "labels": "bench.labels",
    "export": "bench.export",
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(MODULES)))
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON per benchmark.")
def main(names: tuple[str, ...], as_json: bool) -> None:
    """Measure NAMES, or everything.

    Example: python -m bench ledger --json
    """
    for name in names or MODULES:
        importlib.import_module(MODULES[name]).run().show(as_json=as_json)


main()
