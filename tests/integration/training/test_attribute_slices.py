"""Attributes of labels reach the gate: golden images that share one are a slice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.labels.labels import CurrentLabel, NewLabel, add_labels, current_labels
from scanfleet.db.schema import ledger
from scanfleet.models.training.data.types import Example
from scanfleet.worker.evaluation.attribute_slices import attribute_slices
from scanfleet.worker.evaluation.inputs import Inputs
from tests.rigs.training_rig import label_pictures


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path)) as engine:
        yield engine


def labelled(engine: sa.Engine, folder: Path) -> list[CurrentLabel]:
    """Twelve images: six of steel, two of wood; six small ones by their boxes, of which one has two sizes."""
    label_pictures(engine, folder, n=12)
    with transaction(engine) as connection:
        for number, one in enumerate(current_labels(connection, "overlay")):
            material = {"material": "steel" if number < 6 else "wood"} if number < 8 else None
            sizes = [] if number >= 6 else ["small", "large"] if number == 0 else ["small"]
            sides = {"x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 40.0, "label": one.label}
            boxes = [sides | {"attributes": {"size": size}} for size in sizes]
            new = NewLabel(
                content_sha256=one.content_sha256, label=one.label, who="ann", origin="import", boxes=boxes,
                attributes=material,
            )  # fmt: skip
            add_labels(connection, "overlay", [new])
    with reading(engine) as connection:
        return current_labels(connection, "overlay")


def test_golden_images_that_share_an_attribute_are_a_slice(engine: sa.Engine, tmp_path: Path) -> None:
    labels = labelled(engine, tmp_path / "pictures")
    examples = [Example(key=one.content_sha256, path=tmp_path, label=0, cluster=one.cluster) for one in labels]
    nothing = cast("Any", None)
    inputs = Inputs(
        settings=nothing, engine=engine, check=load_check("overlay"), question=nothing, folder=tmp_path, base=nothing,
        plain=nothing, revision="",
    )  # fmt: skip
    slices = inputs.golden(examples, labels, None).slices
    keys = [one.content_sha256 for one in labels]
    assert slices["attribute material"] == dict.fromkeys(keys[:6], "steel")
    assert slices["attribute size"] == dict.fromkeys(keys[1:6], "small")
    assert set(slices["source"]) == set(keys)


def test_labels_without_attributes_have_no_such_slices(engine: sa.Engine, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures", n=6)
    with reading(engine) as connection:
        assert attribute_slices(current_labels(connection, "overlay")) == {}
