"""Specifications of experiments: what is refused, with which words, and what makes another experiment."""

import pytest

from scanfleet.checks.check import load_check
from scanfleet.checks.experiment import load_experiment, parse_experiment, shipped_names
from scanfleet.errors import BadExperiment

SPEC = """
name = "mine"
check = "overlay"
sizes = [20]
[data]
generated = "overlay"
[[arm]]
name = "zero"
kind = "zero-shot"
"""
ARM = '[[arm]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("side_ = 3", "arm.0.side_: is not known"),
        (ARM + 'kind = "recipe"', "options.recipe is missing"),
        (ARM + 'kind = "crops"\noptions = { wide = 1 }', "options.wide is not known"),
        (ARM + 'kind = "zero-shot"\nsizes = [20]', "sizes: kind zero-shot learns from no labels"),
        (ARM.replace('"a"', '"zero"') + 'kind = "zero-shot"', "two arms are named zero"),
        (ARM + 'kind = "zero-shot"\nagainst = "none"', "there is no arm named none"),
    ],
)
def test_a_wrong_arm_is_refused_with_its_key(more: str, words: str) -> None:
    with pytest.raises(BadExperiment, match=r"^mine\.toml: ") as caught:
        parse_experiment(SPEC + more, where="mine.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_has_one_source() -> None:
    with pytest.raises(BadExperiment, match="exactly one of labels, folder and generated"):
        parse_experiment(SPEC.replace("[data]", '[data]\nfolder = "x"'), where="x")


def test_untrained_arms_have_one_cell_and_trained_ones_a_cell_for_each_seed_and_size() -> None:
    text = SPEC.replace("[20]", "[20, 40]") + ARM + 'kind = "recipe"\noptions = { recipe = "lora" }'
    zero, trained = (spec := parse_experiment(text, where="x")).arm
    assert spec.cells(zero) == [(0, 0)]
    assert spec.cells(trained) == [(1, 20), (2, 20), (3, 20), (1, 40), (2, 40), (3, 40)]


def test_a_changed_specification_is_another_experiment_and_a_changed_comparison_is_not() -> None:
    spec = parse_experiment(SPEC, where="x")
    same = parse_experiment(SPEC.replace("sizes", 'against = "zero"\nsizes', 1) + 'against = "zero"', where="x")
    other = parse_experiment(SPEC.replace("[20]", "[30]"), where="x")
    assert spec.digest({}, "images") == same.digest({}, "images")
    assert len({spec.digest({}, "images"), other.digest({}, "images"), spec.digest({}, "others")}) == 3


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_specification_is_valid(name: str) -> None:
    spec = load_experiment(name)
    assert spec.name == name
    load_check(spec.check)
