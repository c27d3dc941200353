"""The cells of an experiment, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scanfleet.checks.experiment import Arm, Experiment
from scanfleet.errors import BadSettings, MissingExtra
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.worker.experiments.arms import Arms

Cell = dict[str, Any]  # arm, seed, size, state, record


def run_cells(
    arms: Arms,
    experiment: Experiment,
    known: Sequence[Cell],
    *,
    on_cell: Callable[[Cell], None],
    on_progress: Callable[[str, int, int], None],
) -> list[Cell]:
    """Run the cells that are not known, and return all. on_cell: called with each that has run."""
    wanted = [(arm, seed, size) for arm in experiment.arm for seed, size in experiment.cells(arm)]
    done = {(cell["arm"], cell["seed"], cell["size"]): cell for cell in known}
    cells = []
    for at, (arm, seed, size) in enumerate(wanted):
        on_progress(f"{arm.name}, seed {seed}, {size} labels", at, len(wanted))
        cell = done.get((arm.name, seed, size))
        if cell is None:
            cell = _cell(arms, arm, seed=seed, size=size)
            on_cell(cell)
        cells.append(cell)
    return cells


def _cell(arms: Arms, arm: Arm, *, seed: int, size: int) -> Cell:
    """Run one cell. What this machine cannot run is left out, with the reason."""
    place = {"arm": arm.name, "seed": seed, "size": size}
    try:
        answers = arms.run(arm, seed=seed, size=size)
    except (ModelInvalid, ModelUnavailable, BadSettings, MissingExtra, ImportError) as error:
        return place | {"state": "left_out", "record": {"reason": " ".join(str(error).split())}}
    return place | {"state": "done", "record": {"log_odds": answers.log_odds, "costs": answers.costs}}
