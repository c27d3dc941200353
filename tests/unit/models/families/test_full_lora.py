"""Recipe `full-lora` in every family: it adapts tower, projector and language model, and all of it learns."""

from pathlib import Path

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, read_adapter
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import load_base
from scanfleet.models.recipes import load_recipe
from scanfleet.models.training.fit import fit
from tests.unit.models.checkpoints import TINY
from tests.unit.models.training.training_examples import QUESTION, ignore_progress, pictures

FAST = {"epochs": 1, "min_steps": 0, "max_epochs": 0, "batch": 3, "accumulation": 1, "lr": 5e-3}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_is_adapted_and_learns(family: str, tmp_path: Path) -> None:
    base = load_base(str(TINY[family].checkpoint(tmp_path / "base")), precision="fp32", device="cpu")
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    images = pictures(tmp_path / "images", 6)
    recipe = load_recipe("full-lora", overrides=FAST)
    trained = fit(base, QUESTION, images, [], recipe, seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    assert trained.figures["matched_vision"]
    assert trained.figures["matched_language"] == TINY[family].LINEAR
    checkpoint = base.checkpoint
    made = AdapterCard(name="a", question=QUESTION, base_model=checkpoint.name, base_revision=checkpoint.revision)
    trained.write(tmp_path / "a", made)
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())
    adapter = read_adapter(tmp_path / "a")
    assert adapter.lora is not None
    assert len(str(adapter.lora.target_modules)) < 2000  # a pattern, not a list of every layer
    plain, tuned = factory.scorer(base, QUESTION), factory.scorer(base, QUESTION, tmp_path / "a")
    picture = [plain.prepare(images[0].open(images[0].path))]
    assert plain.score(picture)[0].margin != tuned.score(picture)[0].margin
