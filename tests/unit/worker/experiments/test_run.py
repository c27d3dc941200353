"""Which cells run, and what becomes of one that this machine cannot run."""

from typing import Any, cast

import pytest

from scanfleet.checks.experiment import Arm, Experiment
from scanfleet.errors import BadExperiment
from scanfleet.models.errors import ModelInvalid
from scanfleet.worker.experiments.arms import Answers, Arms, check_arms, recipe_of
from scanfleet.worker.experiments.run import run_cells


def wanted(*arms: dict[str, Any]) -> Experiment:
    body = {"name": "x", "check": "overlay", "sizes": [40], "seeds": [1, 2], "data": {"generated": "overlay"}}
    return Experiment.model_validate(body | {"arm": arms})


LORA = {"name": "lora", "kind": "recipe", "options": {"recipe": "lora"}}
NF4 = {"name": "nf4", "kind": "quantised", "options": {"precision": "nf4"}}


class Ran:
    """Arms that answer nothing, but for the quantised one, which does not run here."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, int]] = []

    def run(self, arm: Arm, *, seed: int, size: int) -> Answers:
        self.cells.append((arm.name, seed))
        if arm.kind == "quantised":
            raise ModelInvalid("needs\nCUDA")
        return Answers(log_odds={}, costs={})


def test_known_cells_do_not_run_again_and_others_are_left_out_with_the_reason() -> None:
    ran, told = Ran(), list[dict[str, Any]]()
    known = {"arm": "lora", "seed": 1, "size": 40, "state": "done", "record": {"log_odds": {"a": [1.0]}, "costs": {}}}
    cells = run_cells(cast("Arms", ran), wanted(LORA, NF4), [known], on_cell=told.append, on_progress=lambda *_: None)
    assert ran.cells == [("lora", 2), ("nf4", 0)]
    assert cells[0] is known
    assert told == cells[1:]
    assert (cells[2]["state"], cells[2]["record"]) == ("left_out", {"reason": "needs CUDA"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "lora", "rate": 1}, "arm a: options: .*rate"),
        ({"recipe": "none"}, "arm a: options: .*none"),
        ({"recipe": "head", "over": "b"}, "arm a: options.over"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_runs(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadExperiment, match=words):
        check_arms(wanted({"name": "a", "kind": "recipe", "options": options}))


def test_the_built_in_model_takes_its_own_form_of_a_recipe() -> None:
    arm = Arm.model_validate(LORA | {"options": {"recipe": "full-lora", "lr": 0.5}})
    assert recipe_of(arm, "pocket").name == "pocket-full"
    assert recipe_of(arm, "some/model").name == "full-lora"
    assert recipe_of(arm, "pocket").lr == 0.5
