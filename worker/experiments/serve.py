"""`python -m scanfleet.worker.experiments.serve`: the computing half of `scanfleet experiment`. JSON lines.

Input, first line: the fields of `ExperimentRequest`. Each further line is a labelled image, as `worker.tuning.serve`
takes them; none for generated pictures. Output: {"kind": "digest", "digest"} of the experiment; {"kind": "progress",
"what", "done", "total"}; {"kind": "cell", "cell"} for each cell that ends; {"kind": "report", "record"} at the end.
Nothing is written to a ledger here.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scanfleet.checks.check import Check
from scanfleet.checks.experiment import Experiment
from scanfleet.config.settings import Settings
from scanfleet.worker.experiments.arms import Arms, check_arms
from scanfleet.worker.experiments.data import Images, generated, given, split_of
from scanfleet.worker.experiments.record import record_of
from scanfleet.worker.experiments.report import write_report
from scanfleet.worker.experiments.run import Cell, run_cells
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.factory import question_of


@dataclass(frozen=True, kw_only=True)
class ExperimentRequest:
    """The first line. known: cells that are done, by digest. out: the new folder of the report; None: none."""

    experiment: dict[str, Any]
    check: dict[str, Any]
    known: dict[str, list[Cell]]
    out: str | None


def serve(settings: Settings, fields: dict[str, Any], lines: IO[str], reports: Reports) -> None:
    """Raises ScanfleetError."""
    request = ExperimentRequest(**fields)
    experiment = Experiment.model_validate(request.experiment)
    check = Check.model_validate(request.check)
    question = question_of(check)
    check_arms(experiment)

    def on_progress(what: str, done: int, total: int) -> None:
        reports.send("progress", what=what, done=done, total=total)

    def on_cell(cell: Cell) -> None:
        reports.send("cell", cell=cell)

    with tempfile.TemporaryDirectory(prefix="experiment-", dir=settings.make_folder("tmp")) as folder:
        images = _images(settings, experiment, check, Path(folder), lines, reports)
        digest = experiment.digest(request.check, images.digest)
        reports.send("digest", digest=digest)
        split = split_of(experiment, images)
        place = settings.make_folder("experiments") / digest[:16]
        arms, known = Arms(settings, experiment, check, split, place), request.known.get(digest, [])
        cells = run_cells(arms, experiment, known, on_cell=on_cell, on_progress=on_progress)
    record = record_of(experiment, question, split, cells) | {"digest": digest, "unread": images.left_out}
    if request.out is not None:
        write_report(Path(request.out), record)
    reports.send("report", record=record)


def _images(
    settings: Settings, experiment: Experiment, check: Check, folder: Path, lines: IO[str], reports: Reports
) -> Images:
    if experiment.data.generated is not None:
        reports.send("progress", what="drawing pictures", done=0, total=0)
        return generated(settings, experiment.data, question_of(check), folder)
    rows = [json.loads(line) for line in lines]

    def watch(done: int, total: int) -> None:
        reports.send("progress", what="reading images", done=done, total=total)

    return given(settings, rows, question_of(check), folder, watch=watch)


if __name__ == "__main__":
    serve_request(serve)
