"""`scanfleet experiment`: arms x seeds x sizes on one split of labelled images, kept in the ledger cell by cell."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.tables import echo_table
from scanfleet.producer.cli.training.tune import Progress, interval

if TYPE_CHECKING:
    from scanfleet.checks.check import Check
    from scanfleet.checks.experiment import Experiment
    from scanfleet.config.settings import Settings
    from scanfleet.producer.local.child import Child


@click.command()
@click.argument("spec", metavar="SPEC")
@click.option("--model", metavar="MODEL", help="Base model instead of that of SPEC.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="New folder for the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON instead of a table.")
@click.pass_obj
def experiment(flags: Flags, /, *, spec: str, model: str | None, out: Path | None, as_json: bool) -> None:
    """Compare ways to answer a check on labelled images.

    SPEC is a TOML file, or the name of a shipped one (overlay-1k-vs-10k). All arms are tested on the same images. Each
    result is a row in the ledger: the same command goes on where it stopped. An arm that this machine cannot run is
    listed with the reason.

    \b
    Example:
      scanfleet experiment overlay-1k-vs-10k --out report
      scanfleet experiment mine.toml --model Qwen/Qwen3-VL-4B-Instruct --json
    """
    from scanfleet.checks.experiment import load_experiment
    from scanfleet.config.model_names import require_model
    from scanfleet.producer.local.workers import require_worker_extra
    from scanfleet.producer.scans.session import find_check
    from scanfleet.producer.training.tuning import require_new

    if out is not None:
        require_new(out)
    wanted = load_experiment(spec)
    wanted = wanted if model is None else wanted.model_copy(update={"model": model})
    settings = flags.settings(model=wanted.model)
    require_model(settings.model, elsewhere=False)
    require_worker_extra()
    with flags.ledger() as engine:
        check = find_check(engine, wanted.check)
        rows = _images(settings, wanted, check, Path(spec).parent)
        record = _run(engine, settings, wanted, check, rows, out)
    show(record, as_json=as_json)
    if out is not None:
        note(f"report.html and report.json are in {out}")


def _images(settings: Settings, wanted: Experiment, check: Check, folder: Path) -> list[dict[str, Any]]:
    """Return the labelled images; none for generated pictures. Raises BadLabels."""
    from scanfleet.producer.training.experiments import labelled

    progress = Progress()
    rows = labelled(settings, wanted.data, check, folder, on_progress=partial(progress.show, "reading images"))
    progress.end()
    return rows


def _run(
    engine: Any, settings: Settings, wanted: Experiment, check: Check, rows: list[dict[str, Any]], out: Path | None
) -> dict[str, Any]:
    from scanfleet.db.engine import reading
    from scanfleet.db.training.experiments import done_cells
    from scanfleet.producer.local.child import Child

    with reading(engine) as connection:
        known = done_cells(connection, wanted.name)
    asked: dict[str, Any] = {
        "experiment": wanted.model_dump(mode="json"),
        "check": check.model_dump(mode="json"),
        "known": known,
    }
    asked["out"] = None if out is None else os.path.abspath(out)
    with Child(settings, "scanfleet.worker.experiments.serve") as child:
        child.feed([asked, *rows])
        return _follow(child, engine, wanted.name)


def _follow(child: Child, engine: Any, name: str) -> dict[str, Any]:
    """Store each cell as it ends, and return the report."""
    from scanfleet.db.engine import transaction
    from scanfleet.db.training.experiments import add_cell

    progress, digest = Progress(), ""
    record: dict[str, Any] = {}
    for message in child.messages():
        if message["kind"] == "digest":
            digest = message["digest"]
        elif message["kind"] == "cell":
            with transaction(engine) as connection:
                add_cell(connection, message["cell"], experiment=name, digest=digest)
        elif message["kind"] == "progress":
            progress.show(message["what"], message["done"], message["total"])
        else:
            record = message["record"]
    progress.end()
    return record


def show(record: dict[str, Any], *, as_json: bool) -> None:
    """Print the report. What was left out goes to stderr."""
    for one in record["left_out"]:
        note(f"left out: {one['arm']}, seed {one['seed']}, {one['labels']} labels: {one['reason']}")
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    images = record["images"]
    note(f"tested on {images['test']} images; at most {images['train']} to train on; 95 % intervals")
    names = list(record["rows"][0]["figures"]) if record["rows"] else []
    header = ("arm", "labels", "seeds", *(name.replace("_", " ") for name in names), "accuracy against")
    echo_table(header, [_row(row, names) for row in record["rows"]])


def _row(row: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    figures = (interval(row["figures"][name], "{:.3f}") for name in names)
    against = "-" if row["against"] is None else f"{interval(row['against'], '{:+.3f}')} {row['compared_with']}"
    return (row["arm"], str(row["labels"]), str(row["seeds"]), *figures, against)
