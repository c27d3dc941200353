"""A JPEG decoded near the size that is needed gives the margin of the whole one, small targets in it or not."""

from collections.abc import Sequence

import pytest

from scanfleet.images import Enough, decode
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import read_card
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Scorer
from tests.rigs.planted import planted

# The largest shift that was seen: .09 (overlay, 60 images), .04 (baggage, 30). See docs/benchmarks.md.
BOUND = 0.15  # logits
MAX_PIXELS = 20_000_000


def shifts(scorer: Scorer, check: str, numbers: Sequence[int]) -> list[float]:
    """How far the margin of each image moves; those that are decoded whole in either case are left out."""
    assert scorer.detail is not None
    enough = Enough(scorer.detail.pixels, scorer.detail.short_side)
    found = []
    for number in numbers:
        data = planted(check, number)
        whole, part = (decode(data, max_pixels=MAX_PIXELS, enough=need) for need in (None, enough))
        if part.image.size != whole.image.size:
            margins = [scorer.score([scorer.prepare(each.image)])[0].margin for each in (whole, part)]
            found.append(abs(margins[0] - margins[1]))
    return found


@pytest.fixture(params=["overlay", "baggage"])
def check(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scorer(check: str) -> Scorer:
    folder = pocket.adapter_folder(check)
    return factory.scorer(load_base("pocket", device="cpu"), read_card(folder).question, folder)


@pytest.mark.slow
def test_some_targets(check: str, scorer: Scorer) -> None:
    found = shifts(scorer, check, [0, 5, 11])
    assert len(found) == 2  # the first is decoded whole: half its sides would not be enough
    assert 0 < max(found) < BOUND


@pytest.mark.slow
def test_many_targets(check: str, scorer: Scorer) -> None:
    found = sorted(shifts(scorer, check, range(60)))
    print(f"\n{check}: {len(found)} images, median {found[len(found) // 2]:.4f}, largest {found[-1]:.4f}")  # noqa: T201
    assert len(found) >= 30
    assert found[-1] < BOUND
