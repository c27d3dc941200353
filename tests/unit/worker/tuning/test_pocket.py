"""Crop passes of the pocket model are the same in tune as elsewhere: margins and tokens; and a whole tuning."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.models.crops.batch import run_crop_pass
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.pocket.scenes import overlay
from scanfleet.models.training.data.types import Example
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import Model, load_model
from scanfleet.worker.tuning.run import Plan, Tuning
from scanfleet.worker.tuning.score_cache import ScoreCache
from scanfleet.worker.tuning.search_space import FirstPass, FixedParts

CHECK = load_check("overlay").model_copy(update={"max_pixels": 96 * 96})
QUESTION = question_of(CHECK)
SIZE = (256, 160)
FIRST = FirstPass(words="plain", max_pixels=CHECK.max_pixels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    threads = torch.get_num_threads()
    yield load_model(load_settings(model="pocket", device="cpu", data_dir=tmp_path_factory.mktemp("data")))
    torch.set_num_threads(threads)


def labelled(n: int) -> list[Example]:
    scenes = [overlay.draw(17, at, *SIZE) for at in range(n)]
    return [
        Example(
            key=f"{at:02}",
            path=Path(f"{at:02}"),
            label=QUESTION.labels.index(scene.label),
            cluster=str(at),
            boxes=(),
            open=lambda _, image=scene.image: image.copy(),
        )
        for at, scene in enumerate(scenes)
    ]


def scores_of(model: Model, examples: list[Example]) -> ScoreCache:
    return ScoreCache(
        model=model,
        question=QUESTION,
        adapter=None,
        examples=examples,
        sizes=[SIZE] * len(examples),
        layers=(),
        token_budget=512,
        watch=lambda _: None,
    )


@pytest.mark.parametrize(
    "policy",
    [
        CropPolicy(look="pair", crop_pixels=96 * 96, context_pixels=64 * 64),
        CropPolicy(look="crop", method="grad-att", crop_pixels=96 * 96),
        CropPolicy(look="larger", crop_pixels=128 * 128, fuse="max"),
    ],
    ids=lambda policy: policy.look,
)
def test_tune_reads_the_same_crops_as_every_caller(model: Model, policy: CropPolicy) -> None:
    examples = labelled(3)
    images: list[Image.Image] = [one.open(one.path) for one in examples]
    scorer = model.scorer(QUESTION, None, policy=policy)
    firsts = scorer.score([scorer.prepare(image) for image in images])
    expected = run_crop_pass(scorer, model.crop_reader(QUESTION, policy, None), images, firsts)
    scores = scores_of(model, examples)
    found = scores.crop_pass(FIRST, policy, range(3))
    assert [one.margin for one in scores.first_pass(FIRST, range(3))] == pytest.approx(
        [one.margin for one in firsts], abs=1e-4
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert [row.margin for row in mine.rows] == pytest.approx([row.margin for row in theirs.second], abs=1e-4)
        assert mine.cost == theirs.tokens


@pytest.mark.slow
def test_a_whole_tuning(model: Model) -> None:
    examples = [one for one in labelled(45) if one.label != 1]  # overlay and none, in equal parts
    tuning = Tuning(
        Plan(check=CHECK, name=CHECK.name, max_cost=1.6, trials=8, seed=0, at_fpr=0.2),
        question=QUESTION,
        identity=replace(model.identity),
        fixed=FixedParts(),
        examples=examples,
        scores=scores_of(model, examples),
    )
    record = tuning.run(lambda *_: None)
    assert record["trials"] == 8
    assert len({one["words"] for one in record["tried"]}) == 8
    assert all(row["cost"] > 0 and row["value"]["value"] is not None for row in record["front"])
    assert any(one["setting"]["crop"] != "never" for one in record["tried"])
