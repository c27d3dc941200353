"""The mean of an image's visual tokens: from the forward that runs anyway, the same alone and among others."""

import numpy as np
import pytest
from PIL import Image

from scanfleet.models import factory, pocket
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import OVERLAY
from scanfleet.models.pocket.scenes import CHECKS
from scanfleet.models.scoring.prefill import PrefillScorer


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def scorer(base: BaseModel) -> PrefillScorer:
    return factory.scorer(base, OVERLAY, pocket.adapter_folder("overlay"))


def pictures(check: str, n: int) -> list[Image.Image]:
    return [CHECKS[check].draw(2026, number, 128 + 32 * (number % 3), 128).image for number in range(n)]


def test_features_are_the_mean_of_what_the_tower_gives(base: BaseModel) -> None:
    scorer = factory.scorer(base, OVERLAY)
    images = [scorer.prepare(image) for image in pictures("overlay", 4)]
    assert scorer.score(images)[0].features is None
    scorer.keep_features = True
    together = [reading.features for reading in scorer.score(images)]
    for image, found in zip(images, together, strict=True):
        (alone,) = scorer.score([image])
        assert alone.features is not None
        np.testing.assert_allclose(found, alone.features, atol=1e-4)
        inputs = base.processor.reader.stack([image], device=base.device, dtype=base.network.dtype)
        tower = base.network.base_model.get_image_features(**inputs).pooler_output[0]
        np.testing.assert_allclose(found, tower.mean(0).detach().numpy(), atol=1e-4)


def test_the_shipped_adapter_knows_pictures_of_its_own_kind_from_others(scorer: PrefillScorer) -> None:
    def far(check: str) -> tuple[float, float]:
        found = [reading for image in pictures(check, 40) for reading in scorer.score([scorer.prepare(image)])]
        unlike = [reading.unlike for reading in found if reading.unlike is not None]
        assert len(unlike) == len(found)
        return float(np.mean(np.array(unlike) >= 0.9)), float(np.mean([reading.is_unlike for reading in found]))

    assert far("overlay")[0] < 0.25
    assert far("overlay")[1] < 0.05
    assert far("baggage")[1] > 0.7


def test_the_base_alone_and_another_pixel_budget_do_not_compare(base: BaseModel) -> None:
    from dataclasses import replace

    larger = replace(OVERLAY, max_pixels=2 * OVERLAY.max_pixels)
    for scorer in (factory.scorer(base, OVERLAY), factory.scorer(base, larger, pocket.adapter_folder("overlay"))):
        (reading,) = scorer.score([scorer.prepare(pictures("overlay", 1)[0])])
        assert (reading.unlike, reading.is_unlike) == (None, False)
