"""`python -m bench NAME [--json]`: print a table, and with --json one last line of JSON."""

from __future__ import annotations

import importlib
import json
import sys

import click

from bench.report import Skipped

SKIPPED = 77  # exit code: nothing could be measured here

MODULES = {
    "decode": "bench.decode",
    "prefill": "bench.prefill",
    "fleet": "bench.fleet",
    "feed": "bench.feed",
    "scale": "bench.fleet.scale",
    "rivals": "bench.rivals.side_by_side",
    "ledger": "bench.ledger",
    "control": "bench.control",
    "precision": "bench.precision",
    "refresh": "bench.training.refresh",
    "learning-curve": "bench.training.learning_curve",
    "alora": "bench.training.activated",
    "crops": "bench.crops",
    "frames": "bench.frames",
    "menu-order": "bench.asking.menu_order",
    "gate": "bench.judging.gate",
    "questions": "bench.asking.questions",
    "vllm": "bench.asking.against_vllm",
    "certificates": "bench.judging.certificates",
    "drift": "bench.judging.drift",
    "calibration": "bench.judging.calibration",
    "folds": "bench.training.folds",
    "photographs": "bench.judging.photographs",
    "photographs-loop": "bench.training.photographs_loop",
    "claims": "bench.training.claims",
    "labels": "bench.labels",
    "export": "bench.export",
    "query": "bench.query",
    "gpu": "bench.gpu",
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(MODULES)))
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON per benchmark.")
def main(names: tuple[str, ...], as_json: bool) -> None:
    """Measure NAMES, or everything. Exit code 77: all of them were skipped.

    Example: python -m bench ledger --json
    """
    ran = False
    for name in names or MODULES:
        try:
            importlib.import_module(MODULES[name]).run().show(as_json=as_json)
            ran = True
        except Skipped as skipped:
            print(f"{name} is skipped: {skipped}")
            if as_json:
                print(json.dumps({"skipped": str(skipped)}))
    sys.exit(0 if ran else SKIPPED)


main()
