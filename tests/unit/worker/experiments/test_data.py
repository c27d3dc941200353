"""The split of an experiment: whole clusters, and styles that no training image has."""

from pathlib import Path

import pytest

from scanfleet.checks.experiment import Experiment
from scanfleet.errors import BadExperiment
from scanfleet.models.training.data.types import Example
from scanfleet.worker.experiments.data import Images, split_of

STYLES = ("caption", "natural+tiled", "plain")


def wanted(**data: object) -> Experiment:
    arm = {"name": "a", "kind": "recipe", "options": {"recipe": "lora"}}
    body = {"name": "x", "check": "overlay", "sizes": [40], "data": {"generated": "overlay", **data}, "arm": [arm]}
    return Experiment.model_validate(body)


def images(n: int = 120) -> Images:
    rows = [Example(key=f"{at:03}", path=Path("x"), label=at % 3, cluster=str(at // 2)) for at in range(n)]
    return Images(examples=rows, styles={row.key: STYLES[at // 2 % 3] for at, row in enumerate(rows)})


def test_no_cluster_is_on_both_sides() -> None:
    split = split_of(wanted(), images())
    assert not {one.cluster for one in split.train} & {one.cluster for one in split.test}
    assert len(split.train) + len(split.test) == 120


def test_held_out_styles_are_in_the_test_alone() -> None:
    found = images()
    split = split_of(wanted(held_out_styles=("tiled",)), found)
    assert all("tiled" not in found.styles[one.key] for one in split.train)
    assert split.unseen == {key for key, style in found.styles.items() if "tiled" in style}


def test_more_labels_hold_the_fewer_and_early_stopping_sees_other_clusters() -> None:
    split = split_of(wanted(), images())
    small, large = ({one.key for part in split.part(size, seed=1) for one in part} for size in (20, 40))
    assert small < large
    learnt, held = split.part(40, seed=1)
    assert held
    assert not {one.cluster for one in learnt} & {one.cluster for one in held}


def test_each_seed_draws_its_own_labels() -> None:
    split = split_of(wanted(), images())
    first, second = ({one.key for part in split.part(40, seed=seed) for one in part} for seed in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    ("n", "data", "words"),
    [
        (120, {"test_share": 0.8}, "sizes: 40 labels"),
        (6, {}, "the test part has"),
        (120, {"held_out_styles": ("neon",)}, "style neon"),
    ],
)
def test_too_few_images_are_refused(n: int, data: dict[str, object], words: str) -> None:
    with pytest.raises(BadExperiment, match=words):
        split_of(wanted(**data), images(n))
